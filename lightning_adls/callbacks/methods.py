"""Putting something around a method of one module for a while."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


def wrap_method(module: nn.Module, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Have calls of a method of ``module`` go to ``wrapper``, with the method before the arguments.

    Args:
        module: Whose class keeps the method as it is. Copies that are made meanwhile have the
            wrapped method.
        name: Of the method.
        wrapper: Called with the method as it was, then with the arguments.

    Returns:
        What takes it away again.
    """
    method, own = getattr(module, name), name in vars(module)

    # What Lightning reads of a method, such as its arguments, stays readable.
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        return wrapper(method, *arguments, **named)

    setattr(module, name, wrapped)

    def undo() -> None:
        delattr(module, name)
        if own:
            setattr(module, name, method)

    return undo
