"""MASE's configs as formats, and back."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.formats import (
    MXFP,
    Binary,
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Integer,
    Log,
    MinifloatDenorm,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
    ResidualSign,
    Ternary,
)
from lightning_adls.layers import LayerFormats
from lightning_adls.layers.mase.layer_config import (
    MASE_KINDS,
    config_of_formats,
    formats_of_config,
    unused_keys,
)
from lightning_adls.transforms.quantize import layer_formats

PREFIXES = ("data_in", "weight", "bias")
SIGN = {"stochastic": False, "bipolar": True}


def everywhere(**values: Any) -> dict[str, Any]:
    """A config that says the same of input, weight and bias."""
    return {f"{prefix}_{key}": value for prefix in PREFIXES for key, value in values.items()}


def same(fmt: NumberFormat) -> LayerFormats:
    return LayerFormats(fmt, fmt, fmt)


LAYERS: list[tuple[str, dict[str, Any], LayerFormats]] = [
    ("integer", everywhere(width=6, frac_width=3), same(Integer(6, 3))),
    ("integer", everywhere(width=6, frac_width=3) | {"floor": True}, same(Integer(6, 3, "floor"))),
    (
        "minifloat_denorm",
        everywhere(width=8, exponent_width=3, exponent_bias=5),
        same(MinifloatDenorm(8, 3, 5)),
    ),
    (
        "minifloat_ieee",
        everywhere(width=8, exponent_width=3, exponent_bias=None),
        same(MinifloatIEEE(8, 3)),
    ),
    ("log", everywhere(width=5, exponent_bias=7), same(Log(5, 7))),
    (
        "block_fp",
        everywhere(width=6, exponent_width=8, exponent_bias=None, block_size=[16]),
        same(BlockFP(6, block_size=(-1, 16))),
    ),
    (
        "block_minifloat",
        everywhere(width=8, exponent_width=4, exponent_bias_width=6, block_size=[1, 16]),
        same(BlockMinifloat(8, 4, 6, block_size=16)),
    ),
    (
        "block_log",
        everywhere(width=8, exponent_bias_width=6, block_size=[4, 8]),
        same(BlockLog(8, 6, block_size=(4, 8))),
    ),
    ("mxint", everywhere(width=4, block_size=16), same(MXInt(4, block_size=16))),
    (
        "mxint",
        {"weight_width": 4, "weight_block_size": 16},
        LayerFormats(weight=MXInt(4, block_size=16)),
    ),
    (
        "mxfp",
        everywhere(exponent_width=2, frac_width=1, block_size=32),
        same(MXFP(2, 1)),
    ),
    ("ternary", {"weight_scaling_factor": False}, LayerFormats(weight=Ternary())),
    (
        "ternary",
        {"weight_scaling_factor": True},
        LayerFormats(weight=Ternary(scale="per_channel")),
    ),
    (
        "binary",
        {"weight_stochastic": True, "weight_bipolar": True},
        LayerFormats(weight=Binary(stochastic=True)),
    ),
    ("binary_scaling", everywhere(**SIGN) | {"binary_training": True}, same(Binary())),
    (
        "binary_residual",
        {
            **{f"{p}_{k}": v for p in ("data_in", "weight") for k, v in SIGN.items()},
            "binary_training": True,
            "data_in_levels": 3,
        },
        LayerFormats(input=ResidualSign(3), weight=Binary()),
    ),
]


@pytest.mark.parametrize(("kind", "config", "formats"), LAYERS)
def test_a_config_stands_for_formats_and_back(
    kind: str, config: dict[str, Any], formats: LayerFormats
) -> None:
    before = deepcopy(config)
    assert formats_of_config(kind, config) == formats
    assert config_of_formats(formats) == (kind, config)
    assert config == before


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _, _ in LAYERS} == set(MASE_KINDS)


@given(
    width=st.integers(3, 32),
    exponent_bias=st.none() | st.integers(-126, 127),
    rows=st.sampled_from([-1, 1, 2, 16]),
    columns=st.sampled_from([-1, 1, 8, 16]),
)
def test_blocks_and_biases_round_trip(
    width: int, exponent_bias: int | None, rows: int, columns: int
) -> None:
    block_size = columns if rows == 1 else (rows, columns)
    formats = same(BlockFP(width, 4, exponent_bias, block_size=block_size))
    kind, config = config_of_formats(formats)
    assert config["weight_block_size"] == ([columns] if rows == -1 else [rows, columns])
    assert formats_of_config(kind, config) == formats


def test_a_tile_of_one_row_reads_as_a_row() -> None:
    tile, row = BlockLog(block_size=(1, 16)), BlockLog(block_size=16)
    assert config_of_formats(same(tile)) == config_of_formats(same(row))
    tiles = LayerFormats(weight=MXInt(block_size=(1, 16)))
    assert config_of_formats(tiles)[1]["weight_block_size"] == 16


@pytest.mark.parametrize("block_size", [16, [16], (16,), [-1, 16], [2, -1, 16]])
def test_sizes_count_from_the_last_dimension(block_size: Any) -> None:
    config = everywhere(width=8, exponent_bias_width=8, block_size=block_size)
    assert formats_of_config("block_log", config) == same(BlockLog(block_size=(-1, 16)))


def test_what_mase_calls_by_two_names_is_one() -> None:
    config = everywhere(width=8, frac_width=4)
    assert formats_of_config("fixed", config) == formats_of_config("integer", config)


def test_a_bias_can_be_none_in_toml() -> None:
    config = everywhere(width=8, exponent_width=4, exponent_bias="none")
    assert formats_of_config("minifloat_ieee", config) == same(MinifloatIEEE())


@pytest.mark.parametrize("scale", ["none", "per_tensor", "per_channel"])
def test_scales_of_binary_formats_have_no_counterpart(scale: str) -> None:
    binary, residual = Binary(scale=scale), ResidualSign(scale=scale)
    assert config_of_formats(LayerFormats(weight=binary))[0] == "binary"
    for bias in (None, Binary(scale=scale)):
        assert config_of_formats(LayerFormats(binary, binary, bias))[0] == "binary_scaling"
    kind, config = config_of_formats(LayerFormats(residual, binary))
    assert (kind, config["data_in_levels"]) == ("binary_residual", 2)
    ternary = config_of_formats(LayerFormats(weight=Ternary(scale=scale)))
    assert ternary == ("ternary", {"weight_scaling_factor": scale != "none"})


def test_keys_without_effect_are_named() -> None:
    config: dict[str, Any] = {"weight_stochastic": False, "weight_bipolar": True}
    config |= {"bias_width": 1, "binary_training": "NA", "data_in_bipolar": False}
    assert formats_of_config("binary", config) == LayerFormats(weight=Binary())
    assert unused_keys("binary", config) == ["bias_width", "binary_training", "data_in_bipolar"]
    assert unused_keys("integer", everywhere(width=8, frac_width=4)) == []


INTEGER = everywhere(width=8, frac_width=4)
BLOCKS = everywhere(width=8, exponent_bias_width=8, block_size=[16])
SCALING = everywhere(**SIGN) | {"binary_training": True}


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("intger", INTEGER, r"mase: kind='intger' is unknown; there are integer, "),
        ("mxint_hardware", INTEGER, r"kind='mxint_hardware' is unknown"),
        ("integer", None, r"mase: integer: config=None is not a mapping"),
        (
            "integer",
            {"data_in_width": 8},
            r"mase: integer: config lacks data_in_frac_width, weight_width, .*; it takes data_in_w",
        ),
        ("integer", INTEGER | {"weight_wdth": 4}, r"weight_wdth=4 is no key of kind 'integer'; it"),
        ("integer", INTEGER | {"data_out_width": 4}, r"data_out_width=4 is no key"),
        ("integer", INTEGER | {"bias_width": 0}, r"^mase: integer: bias_width=0 is not in 2\.\.32"),
        ("integer", INTEGER | {"bias_width": "8"}, r"bias_width='8' is a str"),
        ("integer", INTEGER | {"floor": 1}, r"floor=1 is not a choice; use True or False"),
        ("block_log", BLOCKS | {"weight_block_size": []}, r"weight_block_size=\[\] is not a block"),
        ("block_log", BLOCKS | {"weight_block_size": [0]}, r"weight_block_size=\[0\] is not"),
        ("block_log", BLOCKS | {"data_in_skip_first_dim": False}, r"data_in_skip_first_dim=False"),
        (
            "mxfp",
            everywhere(exponent_width=4, frac_width=1, block_size=32),
            r"mxfp: data_in_frac_width=1 is no OCP element",
        ),
        ("mxint", everywhere(width=8, block_size=[16]), r"data_in_block_size=\[16\] is not a bl"),
        ("mxint", {"weight_width": 8}, r"config lacks weight_block_size"),
        (
            "mxint",
            {"weight_width": 8, "weight_block_size": 8, "bias_width": 8},
            r"config lacks bias_block_size beside other keys of bias",
        ),
        ("mxint", everywhere(width=8, block_size=8) | {"gptq": True}, r"gptq=True has no meaning"),
        ("binary_scaling", SCALING | {"bias_bipolar": False}, r"bias_bipolar=False has no meaning"),
        ("binary_scaling", SCALING | {"binary_training": False}, r"binary_training=False has no m"),
        ("binary_scaling", SCALING | {"bias_stochastic": None}, r"bias_stochastic=None is not a c"),
        ("binary_residual", SCALING | {"data_in_levels": 0}, r"data_in_levels=0 is not in 1\.\.16"),
        ("ternary", {"weight_scaling_factor": "yes"}, r"weight_scaling_factor='yes' is not a cho"),
    ],
)
def test_a_wrong_config_is_named_with_what_is_right(kind: str, config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats_of_config(kind, config)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("Integer(signed=False)", r"input=Integer\(.*signed=False\) is not what .* 'integer'"),
        ("Integer(ste=clipped)", r"ste=clipped\) is not what"),
        ("Log(ste=clipped)", r"Log\(.*ste=clipped\) is not what"),
        ("MXInt(block_size=(2, 16))", r"block_size=\(2, 16\) is not a block"),
        ("MXInt(block_size=-1)", r"block_size=-1 is not"),
        ("Ternary", r"no kind of layer rounds to input=Ternary"),
        ("LearnedInteger", r"no kind of layer rounds to"),
        ({"weight": "Integer"}, r"no kind of layer rounds to input=None, weight=Integer"),
        ({"input": "Integer", "weight": "Log", "bias": "Log"}, r"no kind of layer rounds to"),
        ({"input": "Integer"}, r"no kind of layer rounds to"),
        ({"weight": "Ternary(threshold=0.5)"}, r"weight=Ternary\(threshold=0\.5\) is not what"),
        ({"weight": "Binary", "bias": "Integer"}, r"input=None is not what .*'binary_scaling'"),
        (
            {"input": "ResidualSign", "weight": "Binary", "bias": "Binary"},
            r"bias=Binary\(\) is not what .*'binary_residual' rounds to; the nearest is None",
        ),
    ],
)
def test_formats_that_no_layer_of_mase_has_are_refused(formats: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of_formats(layer_formats(formats))
