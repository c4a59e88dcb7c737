"""What is said to be rounded already is rounded to itself, of any codes."""

import pytest
import torch
from coded_samples import any_codes, decoded_by_format, hard
from test_coded import FORMATS, scales_of

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.kernels.encoding import encode
from lightning_adls.kernels.own_values import is_rounded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Their scale is a mean of the values, or the code does not say by which scale they are rounded.
UNKNOWN = {"Ternary", "ResidualSign", "ElasticBinary"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", FORMATS)
def test_what_is_said_to_be_rounded_stays(text: str, dtype: torch.dtype) -> None:
    fmt = parse(text)
    scales = scales_of(fmt, learned=True)
    matrices = [encode(fmt, hard((9, 40), dtype, seed), scales) for seed in range(3)]
    matrices.append(encode(fmt, torch.randn(9, 40).to(dtype), scales))
    for share in (None, 0.5):
        matrices += [any_codes(fmt, (9, 40), dtype, share, seed) for seed in range(3)]
    for coded in matrices:
        values = decoded_by_format(coded)
        if is_rounded(coded, values, scales):
            masked = fmt(values, scales)
            if coded.mask is not None:
                masked = masked.masked_fill(values == 0, 0.0)
            assert torch.equal(masked, values)


@pytest.mark.parametrize("text", sorted(NumberFormat.classes.keys() - UNKNOWN))
def test_a_weight_that_was_rounded_is_known_to_be(text: str) -> None:
    """Else it would be rounded once more when a file is read."""
    fmt = parse(text)
    scales = scales_of(fmt, learned=True)
    coded = encode(fmt, torch.randn(40, 96), scales)
    values = coded.decode()
    assert is_rounded(coded, values, scales)
    if scales is not None:
        assert not is_rounded(coded, values, scales * 2)


def test_a_block_whose_largest_value_a_mask_hides_is_looked_at() -> None:
    fmt = parse("MXFP")
    x = torch.randn(4, 64)
    x[0, 3] = 1000.0
    mask = torch.ones(4, 64, dtype=torch.bool)
    mask[0, 3] = False
    coded = encode(fmt, x, None, mask)
    assert not is_rounded(coded, coded.decode(), None)
