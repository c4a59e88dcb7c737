"""Which parameters reach a matrix product, seen by running the model."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_grouped_mm", "linear"),
    *("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "_trilinear"),
    *("mkldnn_rnn_layer", "_cudnn_rnn", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
}


class Products(NamedTuple):
    """What a run multiplies with.

    Args:
        read: Ids of the parameters that are multiplied with as they are.
        elements: Of each weight, by the ids of all parameters that it is made of, which is often
            one: the parameter itself, or what a format or a parametrisation makes of it.
    """

    read: set[int]
    elements: dict[frozenset[int], int]


def products_of(model: nn.Module, run: Callable[[], Any]) -> Products:
    """Run a model, without gradients, and see what it multiplies with.

    Args:
        model: Whose parameters are looked for.
        run: Calls it. What a compiled model does is not seen.
    """
    seen = _Seen(model)
    with torch.no_grad(), seen:
        run()
    return seen.products


class _Seen(TorchDispatchMode):
    """Follows parameters through operations that have no input but them and buffers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.products = Products(set(), {})
        # By the memory of a tensor, what it is made of; the tensor itself keeps its memory its own.
        self.known: dict[int, tuple[Tensor, frozenset[int]]] = {}
        for buffer in model.buffers():
            if buffer.is_floating_point():
                self._remember(buffer, frozenset())
        for parameter in model.parameters():
            self._remember(parameter, frozenset([id(parameter)]))
        self.parameters = set(self.known)

    def _remember(self, tensor: Tensor, sources: frozenset[int]) -> None:
        for memory in _memory(tensor):
            self.known.setdefault(memory, (tensor, sources))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        inputs = [(x, memory) for x in tree_leaves((args, kwargs)) for memory in _memory(x)]
        if func.overloadpacket.__name__ in _PRODUCTS:
            for x, memory in inputs:
                self._multiplied(x, memory)
        elif inputs and all(memory in self.known for _, memory in inputs):
            sources = frozenset().union(*(self.known[memory][1] for _, memory in inputs))
            for made in tree_leaves(output):
                self._remember(made, sources)
        return output

    def _multiplied(self, x: Tensor, memory: int) -> None:
        tensor, sources = self.known.get(memory, (x, frozenset()))
        if sources and x.dim() > 1:
            self.products.elements[sources] = tensor.numel()
            if memory in self.parameters:
                self.products.read.update(sources)


def _memory(x: Any) -> Iterator[int]:
    """Where a tensor lies; a packed one has no place of its own."""
    if type(x) in (Tensor, nn.Parameter) and x.numel() and not x.is_meta:
        yield x.untyped_storage().data_ptr()
