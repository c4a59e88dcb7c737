"""What all number formats share: registry, text form, dtypes, gradient and codes."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.checks import check_choice
from lightning_adls.formats.floats import is_compiled_for_gpu
from lightning_adls.formats.host import is_finite, next_outside
from lightning_adls.formats.steps import Steps
from lightning_adls.formats.text import format_text, parse_text

Bound = Tensor | float

# How ``calibrated`` weighs what saturates against what is rounded away.
OBSERVERS = ("minmax", "percentile", "mse")

PART = 1 << 18
"""Elements that are rounded at a time, 1 MiB of float32; see docs/performance.md."""


@dataclass(frozen=True)
class Encoded:
    """A tensor as a format would store it.

    Args:
        codes: int64, shape of the tensor; each code is the bit pattern of an element, unsigned.
        shared: What elements share, or None: the int64 codes of shared exponents, one per block,
            or scales, in floating point.
        dtype: dtype of the tensor, which decoding returns to.
    """

    codes: Tensor
    shared: Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True)
class NumberFormat(ABC):
    """A set of representable values and the rule that rounds a tensor onto it.

    Defining a concrete subclass registers it in ``classes`` under its name. A subclass is a
    frozen dataclass: its parameters are fields, its arithmetic the abstract methods; dtypes,
    gradient and text form are done here.

    A NaN stays NaN and an infinity saturates; neither changes any other element. The sign of a
    zero carries no meaning.

    Args:
        ste: Gradient of rounding, "identity" (1 everywhere) or "clipped" (0 where the input lay
            outside the representable range; exactly at its bound is inside).

    Example:
        >>> import torch
        >>> fmt = NumberFormat.parse("Integer(width=4, frac_width=2)")
        >>> fmt(torch.tensor([0.3, 9.0, -9.0]))
        tensor([ 0.2500,  1.7500, -2.0000])
    """

    classes: ClassVar[dict[str, type["NumberFormat"]]] = {}
    learns_scales: ClassVar[bool] = False

    ste: str = field(default="identity", kw_only=True)

    def __init_subclass__(cls) -> None:
        if inspect.isabstract(cls):
            return
        if other := NumberFormat.classes.get(cls.__name__):
            raise TypeError(f"{cls.__name__}: {other.__module__} already defines this name.")
        NumberFormat.classes[cls.__name__] = cls

    def __post_init__(self) -> None:
        check_choice(self, "ste", ("identity", "clipped"))

    def __str__(self) -> str:
        return format_text(self)

    @classmethod
    def parse(cls, text: str) -> "NumberFormat":
        """Build a format from its text form, the inverse of ``str``.

        Example:
            >>> str(NumberFormat.parse("Integer(frac_width=6)"))
            'Integer(width=8, frac_width=6)'
        """
        return parse_text(text, cls.classes)

    def __call__(
        self,
        x: Tensor,
        scales: Tensor | None = None,
        *,
        training: bool = False,
        batched: bool = False,
    ) -> Tensor:
        """Round ``x`` to the nearest representable values.

        Computed in float32, in float64 for a float64 input, and returned in the dtype of ``x``.

        Args:
            x: Floating point, any shape.
            scales: Learned scales, shape ``(levels,)``, for the formats that have them; they get
                the gradient that their format defines.
            training: Whether a stochastic format rounds at random; others ignore it.
            batched: Whether the first dimension of ``x`` counts samples, as that of an activation
                does. Learned scales alone make a difference, in the size of their gradient.
        """
        self._check(x, scales)
        return _straight_through(x, scales, self, training, batched)

    def initial_scales(self) -> Tensor | None:
        """Scales to start learning from, shape ``(levels,)``; None if the format learns none."""
        return None

    def fit_scales(self, x: Tensor) -> Tensor | None:
        """Scales that suit ``x``, to start learning from; None if ``initial_scales`` do already."""
        return None

    def calibrated(self, low: float, high: float, sample: Tensor, observer: str) -> Self:
        """This format with the range that suits observed data.

        Formats that have no range to choose, or follow the data by themselves, stay as they are.

        Args:
            low: Smallest finite value that was observed.
            high: Largest finite value that was observed.
            sample: Finite values among those observed, any shape.
            observer: "minmax" (the finest resolution at which nothing saturates), "percentile"
                (at which 99.9 % of the magnitudes other than 0 do not) or "mse" (of least mean
                squared error).

        Raises:
            ValueError: If there is no such observer.
        """
        if observer not in OBSERVERS:
            choices = " or ".join(map(repr, OBSERVERS))
            name = type(self).__name__
            raise InputValueError(f"{name}: observer={observer!r} is not a choice; use {choices}.")
        return self

    @property
    @abstractmethod
    def code_bits(self) -> int:
        """Bits of one element's code."""

    @property
    def bits(self) -> float:
        """Nominal bits per element; in a block format with the element's part of the exponent."""
        return float(self.code_bits)

    @property
    def rounds_at_random(self) -> bool:
        """Whether training rounds the same values to others each time."""
        return False

    def storage_bits(self, shape: Sequence[int]) -> int:
        """Bits to store a tensor of this shape, everything that its elements share included."""
        return math.prod(shape) * self.code_bits

    @property
    def rounds_elements_apart(self) -> bool:
        """Whether outside of training an element alone decides what it is rounded to.

        Larger elements are then rounded to no smaller numbers. Not so with learned scales.
        """
        return False

    @property
    def rounds_rows_apart(self) -> bool:
        """Whether rows of the last dimension, rounded by themselves, are rounded as together.

        Large tensors are then rounded in parts, which pays off from about six passes on.
        """
        return False

    @abstractmethod
    def round(self, x: Tensor) -> Tensor:
        """Round float32 or float64 ``x``, out of place: the arithmetic and nothing else."""

    @abstractmethod
    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        """Smallest and largest representable value for each element of ``x``."""

    @abstractmethod
    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes and shared codes of float32 or float64 ``x``, which holds no NaN."""

    @abstractmethod
    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        """The values that codes stand for, in float32 or float64."""

    def scales_shape(self, rows: int) -> tuple[int, ...] | None:
        """Shape of the scales that a matrix of so many rows is encoded with, or None without them.

        That of ``shared`` in what :meth:`to_codes` gives, where it is in floating point.
        """
        return None

    def steps(self, x: Tensor, scales: Tensor | None) -> Steps | None:
        """What tells the codes of a matrix apart, if a few comparisons do; else None.

        It takes little memory: what all of ``x`` decides is computed in parts.

        Args:
            x: Floating point, shape ``(rows, columns)``, without NaN.
            scales: Learned scales, for the formats that have them.
        """
        return None

    def encode(self, x: Tensor, scales: Tensor | None = None) -> Encoded:
        """Round ``x`` and return it as codes.

        Raises:
            ValueError: If ``x`` holds a NaN, for which no format has a code.

        Example:
            >>> import torch
            >>> NumberFormat.parse("Integer(width=4)").encode(torch.tensor([0.25, -0.5])).codes
            tensor([4, 8])
        """
        self._check(x, scales)
        self.check_has_codes(x)
        with torch.no_grad():
            codes, shared = self._encode(widen(x), scales)
        return Encoded(codes, shared, x.dtype)

    def check_has_codes(self, x: Tensor) -> None:
        """Refuse a NaN.

        Raises:
            ValueError: If ``x`` holds a NaN, for which no format has a code.
        """
        if count := int(x.isnan().sum()):
            raise InputValueError(
                f"{type(self).__name__}: x holds {count} NaN, which have no code."
            )

    def decode(self, encoded: Encoded) -> Tensor:
        """The tensor that ``encode`` rounded to: ``decode(encode(x))`` equals ``self(x)``."""
        return narrow(self.from_codes(encoded.codes, encoded.shared), encoded.dtype)

    # Formats that learn scales or round at random override these; for the others x is all.

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        return self.round(x)

    def _limits(self, x: Tensor, scales: Tensor | None) -> tuple[Bound, Bound]:
        return self.limits(x)

    def _encode(self, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.to_codes(x)

    def _scales_gradient(self, x: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
        raise NotImplementedError

    def _gradient_scale(self, elements: int) -> float:
        """Factor of the scales' gradient, for a weight or a sample of this many elements."""
        return 1.0

    def _check(self, x: Tensor, scales: Tensor | None) -> None:
        name = type(self).__name__
        if not x.is_floating_point():
            raise InputValueError(
                f"{name}: x.dtype={x.dtype} is not floating point; convert it first."
            )
        if scales is not None and not self.learns_scales:
            raise InputValueError(
                f"{name}: scales={scales} has no use here; this format learns none."
            )


def widen(x: Tensor) -> Tensor:
    """``x`` in the dtype that formats compute in: float64 stays, all others become float32."""
    return x if x.dtype == torch.float64 else x.float()


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``, saturating: a plain cast to float16 would overflow to infinity."""
    if x.dtype == dtype:
        return x
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype)


def _round_in_parts(fmt: NumberFormat, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
    """Round ``x``, on a CPU a part at a time if it is large, so that passes find it in the cache.

    Smaller parts than these cost more than they save: every pass has to be called for each.
    """
    # No size is asked for while tracing: a graph would be good for one side of the bound only.
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() < 4 * PART:
        return fmt._round(x, scales, training)
    if not (x.is_contiguous() and fmt.rounds_rows_apart):
        return fmt._round(x, scales, training)
    rows = x.view(-1, x.shape[-1])
    rounded = torch.empty_like(rows)
    count = max(PART // x.shape[-1], 1)
    for part, place in zip(rows.split(count), rounded.split(count), strict=True):
        place.copy_(fmt._round(part, scales, training))
    return rounded.view(x.shape)


def _inside(x: Tensor, low: Bound, high: Bound) -> Tensor:
    """1 where ``x`` lies in ``low..high`` or is NaN, else 0; shape and dtype of ``x``."""
    if is_compiled_for_gpu(x):  # where a bound that is a product would be subtracted unrounded
        return ((x < low) | (x > high)).logical_not().to(x.dtype)
    alike = all(not isinstance(bound, Tensor) or bound.numel() == 1 for bound in (low, high))
    if not (alike and is_finite(x)):
        # Faster than comparing into bools. Not `ge`, which NaN fails.
        return torch.minimum(x - low, high - x).lt_(0).eq_(0)
    # One pass, which gives 0 at its bounds, and for a NaN.
    ones = x.new_ones(()).expand_as(x)
    inside: Tensor = torch.ops.aten.hardtanh_backward(ones, x, *next_outside(x, low, high))
    return inside


class _StraightThrough(torch.autograd.Function):
    # Returns the rounded value itself. `x + (q - x).detach()` has the same gradient, but that sum
    # can leave the grid in bfloat16.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scales: Tensor | None,
        fmt: NumberFormat,
        training: bool,
        batched: bool,
    ) -> Tensor:
        wide = widen(x)
        ctx.fmt, ctx.batched = fmt, batched
        # Where x is kept for the scales, it says later what was inside.
        clipped = fmt.ste == "clipped" and scales is None and x.requires_grad
        # Eager torch converts small integers several times as fast as bools.
        inside = _inside(wide, *fmt._limits(wide, None)).to(torch.int8) if clipped else None
        ctx.save_for_backward(inside, scales, None if scales is None else x)
        return narrow(_round_in_parts(fmt, wide, scales, training), x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        inside, scales, x = ctx.saved_tensors
        scales_grad = None
        if ctx.fmt.ste == "clipped" and scales is not None and ctx.needs_input_grad[0]:
            inside = _inside(widen(x), *ctx.fmt._limits(widen(x), scales))
        if ctx.needs_input_grad[1]:
            elements = x[:1].numel() if ctx.batched else x.numel()
            scales_grad = ctx.fmt._scales_gradient(widen(x), scales, widen(grad))
            scales_grad = (scales_grad * ctx.fmt._gradient_scale(elements)).to(scales.dtype)
        # In the dtype of numbers: eager torch takes several times as long to multiply by a mask.
        x_grad = grad if inside is None else inside.to(grad.dtype).mul_(grad)
        return x_grad, scales_grad, None, None, None


# Under a name of its own because torch leaves `apply` untyped.
_straight_through: Callable[..., Tensor] = _StraightThrough.apply
