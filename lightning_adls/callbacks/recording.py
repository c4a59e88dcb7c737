"""Seeing what modules are called with and what they return, without calling them again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a module: its arguments, those that were named, and what it returned."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    output: Any


Note = Callable[[Call], None]


@contextmanager
def recorded(notes: Mapping[nn.Module, Note]) -> Iterator[None]:
    """Tell of each call of some modules while the context lasts.

    Nothing is left on the modules afterwards, so that copies and checkpoints do not have it, and
    what is computed again in the backward pass (activation checkpointing) is not told of. Of a
    module that was compiled in place the call is told of from outside of the graph; modules within
    one are not seen, see :func:`is_hidden_in_graph`.

    Args:
        notes: From modules to what is called after each of their calls.
    """
    with ExitStack() as stack:
        for module, note in notes.items():
            stack.enter_context(_recorded(module, note))
        yield


@contextmanager
def _recorded(module: nn.Module, note: Note) -> Iterator[None]:
    compiled = module._compiled_call_impl
    if compiled is None:

        def hook(
            _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            note(Call(arguments, named, output))

        handle = module.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return

    def call(*arguments: Any, **named: Any) -> Any:
        output = compiled(*arguments, **named)
        note(Call(arguments, named, output))
        return output

    module._compiled_call_impl = call
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


def is_hidden_in_graph(network: nn.Module, name: str) -> bool:
    """Whether a module of ``network`` is a part of another one that is compiled."""
    parts = name.split(".")
    owners = [network.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return any(
        owner._compiled_call_impl is not None or hasattr(owner, "_orig_mod") for owner in owners
    )
