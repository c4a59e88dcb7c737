"""Which weights reach a matrix product, seen by running a model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"),
    *("convolution", "_convolution", "mkldnn_convolution", "linear", "mkldnn_rnn_layer"),
    *("_trilinear", "_grouped_mm", "_native_multi_head_attention"),
}


class _Products(TorchDispatchMode):
    """Follows the parameters through the operations that have no input but them and buffers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.sources = {_memory(p): frozenset([id(p)]) for p in model.parameters()}
        self.sources |= {_memory(b): frozenset() for b in model.buffers() if b.is_floating_point()}
        self.alive: list[Tensor] = []  # memory of what is gone would be used again
        self.multiplied: dict[frozenset[int], int] = {}
        self.sizes = {_memory(p): p.numel() for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = [self.sources.get(_memory(x)) for x in inputs]
        self.alive += inputs
        if func.overloadpacket.__name__ in _PRODUCTS:
            for x, sources in zip(inputs, known, strict=True):
                if sources and x.dim() > 1:
                    self.multiplied[sources] = self.sizes[_memory(x)]
        elif inputs and None not in known:
            together = frozenset().union(*(sources for sources in known if sources))
            for x in tree_leaves(output):
                if isinstance(x, Tensor) and _memory(x) not in self.sources:
                    self.sources[_memory(x)] = together
                    self.sizes[_memory(x)] = x.numel()
        return output


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def multiplied_elements(model: nn.Module, run: Callable[[], Any]) -> int:
    """Elements of all weights that ``run`` multiplies with, each counted once."""
    products = _Products(model)
    with products:
        run()
    return sum(products.multiplied.values())
