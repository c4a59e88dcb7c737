"""C++ beside this file, compiled for this machine when it is first used, and kept."""

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lightning_adls.errors import InputValueError

FLAGS = ("-std=c++17", "-O3", "-mavx2", "-mf16c", "-fopenmp", "-fPIC", "-shared")
PAYS_AFTER = 1 << 26
"""Elements that torch computes in a process before a kernel is compiled: as long as that takes."""


class Kernels:
    """The functions of a C++ file that torch's operators can replace, and when they pay.

    They are compiled once on a machine: for the first process that has ``PAYS_AFTER`` elements for
    them altogether. Where that was done before, they are used from the first elements on.

    Args:
        name: Of the file.
        needs: Instructions, as ``torch.cpu.get_capabilities`` calls them.
        instead: What torch does where they cannot be compiled.
        declare: Called with the functions, whose types it says.
    """

    def __init__(
        self,
        name: str,
        needs: tuple[str, ...],
        instead: str,
        declare: Callable[[ctypes.CDLL], None],
    ) -> None:
        self.name = name
        self._needs = needs
        self._instead = instead
        self._declare = declare
        self._elements = 0
        self._loaded = False

    def pay(self, elements: int) -> bool:
        """Whether they take the next elements, so many; they are compiled then.

        A compiler that fails is warned of once.
        """
        if self._loaded:
            return True
        self._elements += elements
        if not self.is_possible or not (self._elements >= PAYS_AFTER or self._are_kept):
            return False
        try:
            self.functions  # noqa: B018
        except (InputValueError, OSError) as error:
            self.is_possible = False
            warnings.warn(
                f"{error} Until then {self._instead} by torch: the same values, slower.",
                stacklevel=2,
            )
        self._loaded = self.is_possible
        return self._loaded

    @cached_property
    def is_possible(self) -> bool:
        """Whether this CPU has the instructions, and there is a compiler."""
        has = torch.cpu.get_capabilities()
        able = sys.byteorder == "little" and all(has.get(name, False) for name in self._needs)
        return able and find_compiler() is not None

    @cached_property
    def _are_kept(self) -> bool:
        return is_kept(self.name)

    @cached_property
    def functions(self) -> ctypes.CDLL:
        """The functions, compiled if they are not.

        Raises:
            ValueError: If there is no compiler, or it fails.
        """
        library = load_kernels(self.name)
        self._declare(library)
        return library


@cache
def load_kernels(name: str) -> ctypes.CDLL:
    """The functions of ``<name>.cpp``.

    Compiled by ``$CXX``, or else the first of ``c++``, ``g++`` and ``clang++`` that there is, and
    kept in ``lightning_adls/kernels`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``.

    Raises:
        ValueError: If there is no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise InputValueError(
            f"kernels: no C++ compiler is here ({', '.join(_names())}), by which {name}.cpp is "
            "compiled for this machine; install one, as for torch.compile."
        )
    path = _path(name, compiler)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            _compile(compiler, _source(name), made := Path(folder) / path.name)
            made.replace(path)
    return ctypes.CDLL(str(path))


def is_kept(name: str) -> bool:
    """Whether ``<name>.cpp`` was compiled before by the compiler that there is."""
    compiler = find_compiler()
    return compiler is not None and _path(name, compiler).exists()


def find_compiler() -> str | None:
    """The path of the C++ compiler that compiles kernels; None if there is none."""
    return next((path for name in _names() if (path := shutil.which(name))), None)


def _names() -> tuple[str, ...]:
    return (os.environ["CXX"],) if os.environ.get("CXX") else ("c++", "g++", "clang++")


def _source(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.cpp")


def _path(name: str, compiler: str) -> Path:
    said = "\0".join((compiler, *FLAGS)).encode()
    key = sha256(said + _source(name).read_bytes()).hexdigest()[:16]
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return user / "lightning_adls" / "kernels" / f"{name}-{key}.so"


def _compile(compiler: str, source: Path, to: Path) -> None:
    # The OpenMP library is the one that torch has loaded already.
    command = [compiler, *FLAGS, str(source), "-o", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise InputValueError(
            f"kernels: {compiler} could not compile {source.name} ({lines[0].strip()}); have "
            "$CXX name another C++ compiler."
        )
