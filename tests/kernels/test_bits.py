"""Codes of a few bits lie one after the other without a gap."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_adls.kernels import bits
from lightning_adls.kernels.bits import (
    codes_of_a_word,
    pack_bits,
    packed_bytes,
    unpack_bits,
    unpack_words,
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], int]:
    width = draw(st.integers(1, 32))
    return draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), width


@pytest.fixture(params=[True, False], ids=["eight at once", "byte by byte"])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "_EIGHT_AT_ONCE", request.param)


@pytest.mark.usefixtures("_ways")
@given(streams())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_are_those_of_one_large_integer(stream: tuple[list[int], int]) -> None:
    codes, width = stream
    whole = sum(code << (place * width) for place, code in enumerate(codes))
    expected = whole.to_bytes(-(-len(codes) * width // 8), "little")
    packed = pack_bits(torch.tensor(codes, dtype=torch.int64), width)
    assert bytes(packed.tolist()) == expected
    assert packed.numel() == packed_bytes(len(codes), width)
    assert unpack_bits(packed, width, len(codes)).tolist() == codes
    in_word = codes_of_a_word(width)
    words = unpack_words(packed, width, len(codes)).tolist()
    assert words == [
        sum(code << (place * width) for place, code in enumerate(codes[start : start + in_word]))
        for start in range(0, len(codes), in_word)
    ]


@pytest.mark.parametrize("width", [1, 3, 8, 9, 16, 32])
@pytest.mark.parametrize("count", [7, 8, 9, 24, 31])
def test_large_tensors_are_packed_in_parts(
    width: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = torch.randint(2**width, (count,), generator=torch.Generator().manual_seed(0))
    whole = pack_bits(codes, width)
    monkeypatch.setattr(bits, "_AT_ONCE", 8)
    assert torch.equal(pack_bits(codes, width), whole)
    assert torch.equal(unpack_bits(whole, width, count), codes)
