"""One sample after the other: the unit that effects are squared and averaged over."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_adls.errors import InputValueError
from lightning_adls.transforms.quantize import Quantize

Split = Callable[[Any], Iterable[Any]]


def rows_of(batch: Any) -> list[Any]:
    """Each sample of a batch as a batch of one.

    Args:
        batch: Tensors, or lists, tuples and mappings of them, all with one first dimension, which
            counts samples. What else is in it goes into each sample.

    Raises:
        InputValueError: If the first dimensions are not the same, or there are none.

    Example:
        >>> rows_of({"x": torch.tensor([[1, 2], [3, 4]]), "y": torch.tensor([5, 6])})[1]
        {'x': tensor([[3, 4]]), 'y': tensor([6])}
    """
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    sizes = {tuple(x.shape[:1]) for x in tensors}
    if len(sizes) != 1 or sizes == {()}:
        raise InputValueError(
            f"rows_of: batch has tensors of {sorted(sizes)} rows, so that its samples are not "
            "known; give split=, a function that makes a list of samples of a batch."
        )
    return [
        tree_map(lambda x, row=row: x[row : row + 1] if isinstance(x, Tensor) else x, batch)
        for row in range(len(tensors[0]))
    ]


def samples_of(batches: Iterable[Any], split: Split, who: str) -> list[Any]:
    """All samples of some batches.

    Raises:
        InputValueError: If there are none.
    """
    samples = [sample for batch in batches for sample in split(batch)]
    if not samples:
        raise InputValueError(f"{who}: batches has no samples; give at least one batch.")
    return samples


def fingerprint(model: nn.Module, samples: Iterable[Any]) -> str:
    """A hash of the weights, buffers and samples that scores are of."""
    found = hashlib.sha256()
    state = [(name, x) for name, x in model.state_dict().items() if isinstance(x, Tensor)]
    leaves = [("", leaf) for sample in samples for leaf in tree_leaves(sample)]
    for name, x in (*state, *leaves):
        if isinstance(x, Tensor):
            found.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            found.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            found.update(repr(x).encode())
    return found.hexdigest()[:16]


def unrounded(model: nn.Module, kinds: tuple[str, ...]) -> nn.Module:
    """A copy on the SAME parameters, in eval mode, whose layers of some kinds round nothing.

    It can be changed and called without a trace in ``model``, as long as no parameter is written.
    """
    shared: dict[int, Any] = {}
    for module in model.modules():
        own = (*module._parameters.values(), *vars(module).values())
        # Weights that a hook makes before each call cannot be copied: they belong to a graph.
        shared |= {id(x): x for x in own if isinstance(x, Tensor)}
    copy = deepcopy(model, shared)
    Quantize({"*": None}, kinds)(copy)
    return copy.eval()


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """On exit torch's random numbers go on as if nothing had been drawn."""
    places = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(places, key=str)):
        yield
