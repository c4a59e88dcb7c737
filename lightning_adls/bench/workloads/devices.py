"""Where something is measured."""

from contextlib import AbstractContextManager, nullcontext

import torch

from lightning_adls.errors import InputValueError


def usable(name: torch.device | str, who: str = "measure") -> torch.device:
    """The device of this name; ``who`` begins the error message.

    Raises:
        ValueError: If it is neither the CPU nor a CUDA device, or there is none such.
    """
    kind, _, index = str(name).partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise InputValueError(f"{who}: device={str(name)!r} is neither 'cpu' nor 'cuda'.")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= found:
            raise InputValueError(
                f"{who}: device={str(name)!r}, but the number of CUDA devices that torch "
                f"{torch.__version__} finds is {found}."
            )
    return torch.device(name)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one, which is the one that is waited for."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
