"""What went wrong, in one line of a table."""

import torch


def one_line(error: Exception) -> str:
    """The cause of an error, on one line.

    torch wraps what a backend raises and adds advice below it; only the cause itself is kept.

    Example:
        >>> one_line(RuntimeError("no kernel\\n\\nSet TORCH_LOGS for more."))
        'RuntimeError: no kernel'
    """
    error = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    if _is_out_of_memory(error):
        return f"out of memory: {text}"
    # Ours say who speaks.
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def usable(name: torch.device | str) -> torch.device:
    """The device of this name.

    Raises:
        ValueError: If it is neither the CPU nor a CUDA device, or there is none such.
    """
    kind, _, index = str(name).partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"measure: device={str(name)!r} is neither 'cpu' nor 'cuda'.")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= found:
            raise ValueError(
                f"measure: device={str(name)!r}, but the number of CUDA devices that torch "
                f"{torch.__version__} finds is {found}."
            )
    return torch.device(name)
