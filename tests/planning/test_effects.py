"""What formats do to bins of elements, against rounding all elements."""

import random

import pytest
import torch
from torch import Tensor

from lightning_adls.formats import (
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Integer,
    LearnedInteger,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
)
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.planning.effects import Effects

FORMATS: list[NumberFormat] = [
    *(make() for make in NumberFormat.classes.values()),
    *(MXInt(width, block_size=block) for width in (2, 8, 9, 24) for block in (8, (2, 4), -1)),
    *(Integer(width, frac) for width in (3, 8, 16) for frac in (-2, 3, 20)),
    Integer(4, 2, rounding="floor"),
    Integer(8, 6, signed=False),
    BlockFP(width=4, exponent_width=2, block_size=8),  # whose exponents saturate
    BlockMinifloat(exponent_bias_width=3, block_size=8),
    BlockLog(width=4, block_size=8),
    MinifloatIEEE(width=8, exponent_width=4),
]


def directly(grads: list[Tensor], x: Tensor, fmt: NumberFormat) -> list[float]:
    scales = fmt.fit_scales(x)
    rounded = fmt(x, fmt.initial_scales() if scales is None else scales).double()
    return [float((grad.double() * (rounded - x.double())).sum()) for grad in grads]


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    normal = torch.randn(6, 40, dtype=dtype)
    # On and beside the boundaries of all formats of few bits, with zeros of both signs.
    steps = torch.arange(-120, 120, dtype=dtype).view(6, 40) / 16
    beside = torch.nextafter(steps, torch.tensor(9.0, dtype=dtype))
    wide = normal * 2.0 ** torch.randint(-60, 20, (6, 40))
    zeros = torch.cat([torch.zeros(3, 40, dtype=dtype), -torch.zeros(3, 40, dtype=dtype)])
    return {
        "normal": normal,
        "steps": steps,
        "beside": beside,
        "wide": wide,
        "zeros": zeros,
        "some": normal * (normal > 1),
        "small": normal * 2.0**-30,
        "vector": normal[0, :37],
        "large": normal * 2.0**124,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_bins_are_rounded_as_their_elements(fmt: NumberFormat, dtype: torch.dtype) -> None:
    rounding = Effects()
    for name, x in tensors(dtype).items():
        grads = [torch.randn_like(x) for _ in range(2)]
        found = rounding.of(x[None], torch.stack(grads)[None], [fmt])[0, :, 0]
        terms = max(float((grad * x).abs().max()) for grad in grads)
        expected = directly(grads, x, fmt)
        assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12 * terms), name


def test_an_effect_does_not_depend_on_other_formats_or_tensors() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 64) * torch.tensor([1.0, 1e-3, 0.0, 100.0, 1e9]).view(5, 1, 1)
    grads, rounding = torch.randn(5, 3, 4, 64), Effects()
    order = random.Random(0).sample(range(len(FORMATS)), len(FORMATS))
    together = rounding.of(x, grads, [FORMATS[n] for n in order])
    for n, effects in zip(order, together.unbind(-1), strict=True):
        alone = [
            Effects().of(x[i, None], grads[i, None, 1, None], [FORMATS[n]]).item() for i in range(5)
        ]
        assert effects[:, 1].tolist() == pytest.approx(alone, rel=1e-6, abs=1e-12)


def test_numbers_that_are_not_finite_reach_the_effect() -> None:
    x = torch.tensor([[1.3, float("inf"), 2.0], [1.0, 2.0, 3.0]])
    effects = Effects().of(x, torch.ones(2, 1, 3), [Integer(4, 2)])
    assert effects[..., 0].isfinite().tolist() == [[False], [True]]


def test_what_is_sorted_into_bins_is_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    formats: list[NumberFormat] = [MXInt(width, block_size=16) for width in range(2, 9)]
    formats += [Integer(width, width - 2) for width in range(3, 9)]

    def never(*_: object, **__: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(NumberFormat, "__call__", never)
    x, grads = torch.randn(1, 8, 32), torch.randn(1, 1, 8, 32)
    assert bool(Effects().of(x, grads, formats).all())
    with pytest.raises(AssertionError):  # its step is no power of two
        Effects().of(x, grads, [LearnedInteger(4)])


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_formats_say_truly_what_decides_how_they_round(fmt: NumberFormat) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 16) * 4
    if fmt.rounds_elements_apart:
        parts = [fmt(each.view(1)) for each in x.flatten()]
        assert torch.equal(torch.cat(parts), fmt(x).flatten())
    if isinstance(fmt, BlockFormat):
        largest = torch.linspace(1, 1.99, 50)
        one = len(fmt.scale(largest).unique()) == 1
        assert one == fmt.scales_by_exponent
