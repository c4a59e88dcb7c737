"""What a machine has to do with whether compiling pays: its speed, and what it compiled before."""

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import torch
from torch import nn

from lightning_adls.compiling.cache import keep_on_disk

# Beside graphs, which torch keeps in folders of two letters.
_MARKS = "lightning_adls"
_SIZE = 768  # rows and columns: a matrix of a BERT
_PRODUCTS = 5


@dataclass(frozen=True)
class Machine:
    """What is measured or looked up once, so that each decision by it can be repeated.

    Args:
        flops_per_second: Of products of float32 matrices, with the threads that torch has.
        compiled: Keys of networks of which graphs are kept on disk, see :func:`key_of`.
    """

    flops_per_second: float
    compiled: frozenset[str]


def key_of(model: nn.Module, kind: str) -> str:
    """A key for what the graphs of a network depend on: its structure, formats, device and torch.

    Args:
        model: Its weights do not count.
        kind: What else decides, such as the precision of a Trainer.
    """
    device = next((p.device.type for p in model.parameters()), "cpu")
    text = "\n".join((str(model), device, kind, torch.__version__))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def mark_compiled(key: str) -> None:
    """Note on disk that graphs of this key are kept there, unless torch keeps none."""
    if torch.compiler.config.force_disable_caches:
        return
    folder = keep_on_disk() / _MARKS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / key).touch()


@cache
def _here(device: str) -> Machine:
    folder = keep_on_disk() / _MARKS
    kept = frozenset(path.name for path in folder.glob("*"))
    return Machine(_flops_per_second(device), kept)


# Of the run that this process belongs to, by device, as it was when the run began.
_remembered: dict[str, Machine] = {}


def machine(device: str) -> Machine:
    """This machine, measured once per process, or as :func:`remember_machine` found it.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return _remembered.get(device) or _here(device)


def remember_machine(path: Path) -> None:
    """Take this machine from a file, or write it there: calls of one run then decide alike.

    Args:
        path: JSON, in a folder that exists.
    """
    if not path.exists():
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        found = {device: _here(device) for device in devices}
        content = {
            device: {"flops_per_second": m.flops_per_second, "compiled": sorted(m.compiled)}
            for device, m in found.items()
        }
        path.write_text(json.dumps(content), encoding="utf-8")
    held = json.loads(path.read_text(encoding="utf-8"))
    _remembered.clear()
    for device, fields in held.items():
        compiled = frozenset(fields["compiled"])
        _remembered[device] = Machine(fields["flops_per_second"], compiled)


def _flops_per_second(device: str) -> float:
    """Median of a few products, after one that does not count; a fifth of a second on two cores."""
    a = torch.ones(_SIZE, _SIZE, device=device)
    seconds = []
    for _ in range(_PRODUCTS + 1):
        begin = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * _SIZE**3 / median(seconds[1:])
