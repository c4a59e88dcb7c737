"""Dropout that costs a fraction of torch's on the CPU: one random number for four elements."""

import torch
from torch import Tensor, nn

# Of each mask element. A draw has 63 random bits, so that one of its four parts has only fifteen.
_BITS = 15


class BitDropout(nn.Dropout):
    """Zeroes elements with probability ``p`` in training and divides the others by what is kept.

    On the CPU, torch draws a number for each element, which is most of what dropout costs. Here
    fifteen random bits decide over an element, so that one draw does for four. ``p`` is rounded to
    a multiple of 2^-15 for that, and the kept elements are divided by the probability of being
    kept after it, so that the expected output is the input, up to its dtype's rounding of the
    quotient. The bits are of torch's default generator: a seed repeats them, and where its state is
    restored they go on.

    Compiled to a graph, it drops the same elements. On other devices, where the draw is parallel,
    it is ``nn.Dropout``, and so it is in place, exported, traced, under ``vmap``, and where ``p``
    rounds to 0 or 1. Its state dict is empty, as there.

    Args:
        p: As in ``nn.Dropout``.
        inplace: As in ``nn.Dropout``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> sorted(set(BitDropout(0.5)(torch.ones(99)).tolist()))
        [0.0, 2.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input, thinned out in training; of the same shape and dtype."""
        dropped = round(self.p * 2**_BITS)
        drops = self.training and not self.inplace and 0 < dropped < 2**_BITS
        if drops and _draws_here(input):
            return input * _factors(input, dropped)
        return super().forward(input)


def _draws_here(input: Tensor) -> bool:
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    recorded = torch.compiler.is_exporting() or traced
    # `vmap` decides by its argument `randomness` how often torch's dropout draws.
    batched = torch._C._functorch.is_batchedtensor(input)
    return input.device.type == "cpu" and input.is_floating_point() and not (recorded or batched)


@torch.no_grad()
def _factors(input: Tensor, dropped: int) -> Tensor:
    """What each element is multiplied with: 0 in ``dropped`` of 2^15 cases."""
    numbers = input.new_empty((input.numel() + 3) // 4, dtype=torch.int64)
    if torch.compiler.is_compiling():
        numbers = torch.ops.aten.random(numbers)  # the same numbers; `random_` breaks the graph
    else:
        numbers.random_()
    # They have 63 random bits. This puts the one that is missing where it decides nothing.
    numbers <<= 1
    bits = numbers.view(torch.int16)[: input.numel()].view(input.shape)
    # Not by a mask of bool, which torch multiplies with many times slower.
    factors = input.new_empty(input.shape)
    torch.ge(bits, 2 * dropped - 2**_BITS, out=factors)
    return factors.mul_(2**_BITS / (2**_BITS - dropped))


def use_bit_dropout(model: nn.Module) -> None:
    """Put a :class:`BitDropout` in the place of every ``nn.Dropout`` within ``model``, in place.

    Subclasses of it stay, and so does what is computed without a module, as in torch's attention.
    """
    made: dict[nn.Module, BitDropout] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is nn.Dropout:
                own = BitDropout(child.p, child.inplace).train(child.training)
                # One that is held at several places has one name among `named_children`.
                setattr(parent, name, made.setdefault(child, own))
