"""Which entries of a batch a forward takes: those that it has a parameter for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")


def input_names(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Names by which ``forward`` takes inputs, or None if it takes any (``**kwargs``).

    Example:
        >>> sorted(input_names(lambda input_ids, attention_mask=None: None))
        ['attention_mask', 'input_ids']
    """
    parameters = inspect.signature(forward).parameters.values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in by_name)


def select(batch: Mapping[str, ValueT], names: frozenset[str] | None) -> dict[str, ValueT]:
    """The entries of ``batch`` that have one of the names; all of them for None."""
    return {name: value for name, value in batch.items() if names is None or name in names}
