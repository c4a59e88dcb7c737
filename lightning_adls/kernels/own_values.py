"""Whether a format rounds what its codes stand for to itself, told without rounding it all."""

import torch
from torch import Tensor

from lightning_adls.formats import LearnedInteger
from lightning_adls.formats.base import narrow, widen
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_max, split
from lightning_adls.formats.floats import power_of_two
from lightning_adls.kernels.bits import unpack_bits
from lightning_adls.kernels.coded import Coded

_WIDEST = 12  # bits of a code, all of which are tried


def is_rounded(coded: Coded, values: Tensor, scales: Tensor | None) -> bool:
    """Whether rounding is known to leave each of the values as it is.

    A format that rounds elements by themselves does so if it does for each of its codes. One of
    blocks does so if it gives each block the scale that its codes have, and leaves each element of
    such a scale: blocks are looked at for their largest magnitude alone.

    Args:
        coded: Codes of a matrix.
        values: What they were decoded to.
        scales: Learned scales by which they would be rounded, for the formats that have them.

    Returns:
        False also says that it is not known: that has to be seen by rounding.
    """
    fmt, dtype = coded.shapes.format, coded.shapes.dtype
    if fmt.code_bits > _WIDEST or dtype == torch.float64 or not values.numel():
        return False
    if isinstance(fmt, BlockFormat):
        return _are_blocks_rounded(coded, fmt, values)
    if not (fmt.rounds_elements_apart or isinstance(fmt, LearnedInteger)):
        return False
    shared = coded.shared
    if shared is not None:
        zero = torch.zeros(1, 1, dtype=dtype, device=values.device)
        own = fmt.encode(zero, scales).shared
        if own is None or not torch.equal(own, shared):
            return False
    every = torch.arange(1 << fmt.code_bits, device=values.device)
    all_values = narrow(fmt.from_codes(every, shared), dtype)
    return torch.equal(fmt(all_values, scales), all_values)


def _are_blocks_rounded(coded: Coded, fmt: BlockFormat, values: Tensor) -> bool:
    largest = block_max(split(widen(values), fmt.block_size))
    scale = fmt.scale(largest)
    shared = coded.shared
    assert shared is not None
    found = unpack_bits(shared, fmt.shared_bits, coded.shapes.shared_count)
    if not torch.equal(fmt.exponent(scale).flatten() - fmt.shared_range[0], found):
        return False
    limit = fmt.largest_element(scale.dtype)
    if not bool((largest <= scale * limit).all()):
        return False
    scales = scale.unique()[:, None]
    elements = fmt.decode_element(torch.arange(1 << fmt.code_bits, device=values.device))
    exact = elements * power_of_two(fmt.exponent(scales), torch.float64)
    all_values = widen(narrow(exact, values.dtype))
    rounded = widen(narrow(fmt.round_blocks(all_values, scales), values.dtype))
    return bool(((rounded == all_values) | (all_values.abs() > scales * limit)).all())
