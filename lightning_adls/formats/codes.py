"""Signs in the bit patterns of codes: a sign bit on top, or two's complement."""

from torch import Tensor


def with_sign(magnitude: Tensor, x: Tensor, width: int) -> Tensor:
    """Codes of ``width`` bits: magnitudes below the sign bit of the values ``x``."""
    return magnitude | ((x < 0).long() << (width - 1))


def sign_and_magnitude(codes: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Undo ``with_sign``: the factor 1 or -1, and the bits below the sign bit."""
    negative = codes >> (width - 1)
    return 1 - negative.mul(2), codes & ((1 << (width - 1)) - 1)


def to_twos_complement(whole: Tensor, width: int) -> Tensor:
    """Bit patterns of int64 integers, which fit ``width`` bits."""
    return whole & ((1 << width) - 1)


def from_twos_complement(codes: Tensor, width: int) -> Tensor:
    """Undo ``to_twos_complement``."""
    return codes - ((codes >> (width - 1)) << width)
