"""What went wrong, in one line of a table."""

import torch


def one_line(error: Exception) -> str:
    r"""The cause of an error, on one line.

    torch wraps what a backend raises and adds advice below it; only the cause itself is kept.

    Example:
        >>> one_line(RuntimeError("no kernel\n\nSet TORCH_LOGS for more."))
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
