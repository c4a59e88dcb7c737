"""What the machine has: processors, their instructions, GPUs, a compiler."""

import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_adls.kernels import decode_compiled, encode_cpu
from lightning_adls.kernels.compiled import is_kept
from lightning_adls.labs.checks.finding import Finding
from lightning_adls.labs.environment import machine
from lightning_adls.threads import SPIN_COUNT, WAIT_POLICY, cores

# What multiplies 8-bit integers and bfloat16 in one instruction, by torch's names for it.
_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dot")
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
_WIDE = ("avx2", "avx512_f", "neon", "sve")
NVIDIA = Path("/proc/driver/nvidia")


def check_machine() -> Iterator[Finding]:
    """Of this machine."""
    here = machine()
    yield Finding("ok", f"Python {here['python']} on {here['platform']}")
    yield from check_processor(here["cpu"], torch.cpu.get_capabilities())
    yield from check_threads(torch.get_num_threads(), cores(), quota(), os.environ)
    yield Finding("ok", f"Memory: {here['memory']}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    nvidia = NVIDIA.exists() or shutil.which("nvidia-smi") is not None
    yield from check_torch(torch.__version__, torch.version.cuda, gpus, nvidia)
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    yield from check_compiler(compiler(), headers)
    kernels = (decode_compiled.KERNELS, encode_cpu.KERNELS)
    possible = {each.name: each.is_possible for each in kernels}
    yield check_kernels(possible, {each.name: is_kept(each.name) for each in kernels})


def check_processor(name: str, capabilities: Mapping[str, Any]) -> Iterator[Finding]:
    """Its name and what it multiplies at once.

    Args:
        name: Of the processor.
        capabilities: As ``torch.cpu.get_capabilities`` tells them.
    """

    def having(names: tuple[str, ...]) -> str:
        return ", ".join(each for each in names if capabilities.get(each))

    yield Finding("ok", f"Processor: {name}; vectors: {having(_WIDE) or 'none that torch knows'}")
    for kind, names, without in (
        ("8-bit integers", _INT8, "an int8 model gains less speed than on one that does"),
        ("bfloat16", _BFLOAT16, "training in bfloat16 is slower than in float32 here"),
    ):
        if has := having(names):
            yield Finding("ok", f"The processor multiplies {kind} ({has})")
        else:
            yield Finding("note", f"The processor does not multiply {kind}: {without}")


def check_threads(
    threads: int, usable: int, most: float | None, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """How many threads torch computes with, and how they wait.

    Args:
        threads: Of torch.
        usable: Processors that this process may run on.
        most: Processors' worth of time that a container grants, None without a limit.
        environment: Its variables.
    """
    set_to = environment.get("OMP_NUM_THREADS")
    said = f"OMP_NUM_THREADS={set_to}" if set_to else "OMP_NUM_THREADS is not set"
    granted = usable if most is None else min(usable, most)
    if threads > granted:
        yield Finding(
            "note",
            f"torch computes with {threads} threads on {granted:g} processors ({said}), which "
            f"then wait for each other; export OMP_NUM_THREADS={max(1, int(granted))}",
        )
    else:
        yield Finding("ok", f"torch computes with {threads} of {usable} processors ({said})")
    waits = environment.get(WAIT_POLICY, "not set")
    if waits.lower() == "passive":
        spins = environment.get(SPIN_COUNT)
        yield Finding("ok", f"{WAIT_POLICY}={waits}{f', {SPIN_COUNT}={spins}' if spins else ''}")
    else:
        yield Finding(
            "note",
            f"{WAIT_POLICY}={waits}: idle threads spin and slow down other work; unset it, and "
            "adls lets them sleep",
        )


def check_torch(version: str, cuda: str | None, gpus: list[str], nvidia: bool) -> Iterator[Finding]:
    """Whether the build of torch goes with the machine.

    Args:
        version: Of torch.
        cuda: What its build is for, None for a CPU.
        gpus: That it can use.
        nvidia: Whether the machine has a driver of NVIDIA.
    """
    build = f"built for CUDA {cuda}" if cuda else "a build for CPUs"
    if gpus:
        yield Finding("ok", f"torch {version}, {build}; GPUs: {', '.join(gpus)}")
    elif nvidia and cuda:
        yield Finding(
            "problem",
            f"torch {version}, {build}, cannot use the GPU of this machine; nvidia-smi shows "
            "whether the driver is as new as that",
        )
    elif nvidia:
        yield Finding(
            "problem",
            f"torch {version} is {build}, and this machine has an NVIDIA GPU; in an environment "
            "made anew, pip install torch",
        )
    elif cuda:
        yield Finding(
            "note",
            f"torch {version} is {build}, and there is no GPU: gigabytes that nothing uses; pip "
            "install torch --index-url https://download.pytorch.org/whl/cpu",
        )
    else:
        yield Finding("ok", f"torch {version}, {build}; no GPU")


def check_compiler(compiler: str | None, headers: bool) -> Iterator[Finding]:
    """What torch.compile needs on a CPU.

    Args:
        compiler: Path of a C++ compiler.
        headers: Whether Python's own header files are there.
    """
    if compiler is None:
        yield Finding(
            "note", "There is no C++ compiler: torch.compile fails on the CPU; apt install g++"
        )
    elif not headers:
        yield Finding(
            "note",
            f"C++ compiler {compiler}, but no Python.h: torch.compile may fail on the CPU; apt "
            "install python3-dev",
        )
    else:
        yield Finding("ok", f"C++ compiler for torch.compile: {compiler}")


def check_kernels(possible: Mapping[str, bool], kept: Mapping[str, bool]) -> Finding:
    """How fast packed weights are read and written on this CPU.

    Args:
        possible: Whether each C++ file of the package can be used, by its name.
        kept: Whether it was compiled before.
    """
    if without := [name for name in possible if not possible[name]]:
        return Finding(
            "note",
            f"Packed weights are slower here: {', '.join(without)} run in torch, as there is no "
            "C++ compiler, or the processor lacks AVX2 or F16C",
        )
    if waiting := [name for name in kept if not kept[name]]:
        return Finding(
            "ok", f"Kernels for packed weights: {', '.join(waiting)} compiled when first worth it"
        )
    return Finding("ok", f"Kernels for packed weights: {', '.join(kept)} compiled, and kept")


def compiler() -> str | None:
    """The path of the C++ compiler that torch would call."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def quota(folder: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that a container may use, None where nothing limits it.

    Args:
        folder: Where Linux says it (cgroups, version 2).
    """
    try:
        granted, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if granted == "max" else int(granted) / int(period)
