"""C++ beside this file, compiled for this machine when it is first used, and kept."""

import ctypes
import os
import shutil
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_adls.errors import InputValueError

FLAGS = ("-std=c++17", "-O3", "-mavx2", "-mf16c", "-fopenmp", "-fPIC", "-shared")


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
