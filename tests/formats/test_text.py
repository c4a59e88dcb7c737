"""The text form of formats: what is written, what is read, and what is refused."""

import pytest

from lightning_adls.formats import (
    Binary,
    BlockFP,
    Integer,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
    Ternary,
    parse,
)


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        (Integer(), "Integer(width=8, frac_width=4)"),
        (Integer(4, -2, rounding="floor"), "Integer(width=4, frac_width=-2, rounding=floor)"),
        (Integer(signed=False), "Integer(width=8, frac_width=4, signed=False)"),
        (Integer(ste="clipped"), "Integer(width=8, frac_width=4, ste=clipped)"),
        (MinifloatIEEE(), "MinifloatIEEE(width=8, exponent_width=4)"),
        (
            MinifloatIEEE(exponent_bias=7),
            "MinifloatIEEE(width=8, exponent_width=4, exponent_bias=7)",
        ),
        (Binary(), "Binary()"),
        (Binary(scale="per_channel"), "Binary(scale=per_channel)"),
        (Ternary(threshold=0.5), "Ternary(threshold=0.5)"),
        (MXInt(), "MXInt(width=8, block_size=32)"),
        (
            BlockFP(4, block_size=(16, 16)),
            "BlockFP(width=4, exponent_width=8, block_size=(16, 16))",
        ),
    ],
)
def test_the_text_form_shows_integers_and_what_differs_from_the_default(
    fmt: NumberFormat, text: str
) -> None:
    assert str(fmt) == text
    assert parse(text) == fmt


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        ("Integer", Integer()),
        ("Integer()", Integer()),
        ("  Integer( frac_width = 2 ) ", Integer(frac_width=2)),
        ("Integer(frac_width=-2)", Integer(frac_width=-2)),
        ("Binary(scale='per_tensor')", Binary(scale="per_tensor")),
        ("MinifloatIEEE(exponent_bias=None)", MinifloatIEEE()),
        ("BlockFP(block_size=(4, 4))", BlockFP(block_size=(4, 4))),
    ],
)
def test_defaults_may_be_left_out_and_spaces_and_quotes_do_not_matter(
    text: str, fmt: NumberFormat
) -> None:
    assert parse(text) == fmt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Integr", r"format='Integr' is unknown; did you mean Integer\? known are .*MXInt"),
        ("integer", r"did you mean Integer\?"),
        ("Quaternion(width=2)", "format='Quaternion' is unknown; known are"),
        ("Integer(widht=3)", "Integer: widht=3 is no parameter of this format; .* width, frac_wid"),
        ("Integer(width=4.0)", r"Integer: width=4\.0 is a float"),
        ("Integer(width=four)", r"Integer: width='four' is a str"),
        ("Integer(width=True)", "Integer: width=True is a bool"),
        ("Binary(scale=1)", "Binary: scale=1 is not a choice"),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Integer(",
        "Integer(4, 2)",
        "Integer(width=)",
        "Integer(width=2+2)",
        "Integer(width=len('abcd'))",
        "Integer(**{'width': 4})",
        "Integer(width=4, width=5)",
        "Integer(width=4)(2)",
        "formats.Integer(width=4)",
        "[Integer]",
        "Integer; Log",
        "Integer(width=4\0)",
        8,
        None,
    ],
)
def test_what_is_not_a_format_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(ValueError, match=r"text=.* is not a format; write a name"):
        parse(text)
