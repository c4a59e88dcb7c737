"""Recipes: reading, writing, applying and summing them up."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_adls.formats import Integer, MXInt, NumberFormat
from lightning_adls.layers import LinearFormats, QuantizedLinear
from lightning_adls.transforms import Quantize, bits_per_weight, summarize
from lightning_adls.transforms.quantize import state_for

formats = st.sampled_from([None, *(str(cls()) for cls in NumberFormat.classes.values())])
choices = st.one_of(
    formats, st.fixed_dictionaries({}, optional=dict.fromkeys(("input", "weight", "bias"), formats))
)


@given(st.dictionaries(st.text("abc.*?", min_size=1), choices, min_size=1))
def test_every_recipe_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, layers):  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    recipe = Quantize(layers)
    recipe.save(path)
    assert Quantize.load(path) == recipe
    assert list(Quantize.load(path).layers) == list(layers)


def test_only_matched_layers_are_swapped(mlp: nn.Sequential) -> None:
    Quantize({"*": "MXInt(width=4)", "2": None, "3.*": {"weight": "Integer"}})(mlp)
    assert isinstance(mlp[0], QuantizedLinear)
    assert mlp[0].formats == LinearFormats(*[MXInt(width=4)] * 3)
    assert type(mlp[2]) is nn.Linear
    assert isinstance(mlp[3], nn.Sequential)
    assert mlp[3][0].formats == LinearFormats(weight=Integer())


def test_the_optimizer_of_the_unquantised_model_trains_the_quantised_one(
    mlp: nn.Sequential,
) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    Quantize({"*": "Integer(width=8, frac_width=6)"})(mlp)
    before = [p.detach().clone() for p in mlp.parameters()]
    mlp(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, b) for p, b in zip(mlp.parameters(), before, strict=True))


def test_quantising_again_replaces_the_formats_and_keeps_the_mask(mlp: nn.Sequential) -> None:
    Quantize({"*": "Integer"})(mlp)
    assert isinstance(mlp[0], QuantizedLinear)
    mlp[0].weight_mask = torch.ones(32, 16, dtype=torch.bool)
    mask = mlp[0].weight_mask
    Quantize({"*": "MXInt"})(mlp)
    assert isinstance(mlp[0], QuantizedLinear)
    assert mlp[0].formats.weight == MXInt()
    assert mlp[0].weight_mask is mask


def test_state_dicts_pass_between_quantised_and_plain_models(mlp: nn.Sequential) -> None:
    plain = {name: value.clone() for name, value in mlp.state_dict().items()}
    Quantize({"*": {"input": "ResidualSign", "weight": "Integer"}})(mlp)
    mlp.load_state_dict(plain)
    other = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.Sequential(nn.Linear(8, 2))
    )
    other.load_state_dict(state_for(other, mlp.state_dict()))
    for name, value in other.state_dict().items():
        assert torch.equal(value, plain[name]), name


def test_a_mask_is_folded_into_the_weight_of_a_plain_model(mlp: nn.Sequential) -> None:
    Quantize({"0": "Integer"})(mlp)
    assert isinstance(mlp[0], QuantizedLinear)
    mlp[0].weight_mask = torch.rand(32, 16) > 0.5
    linear = nn.Linear(16, 32)
    plain = nn.Sequential(linear)
    state = {k: v for k, v in mlp.state_dict().items() if k.startswith("0.")}
    plain.load_state_dict(state_for(plain, state))
    assert torch.equal(linear.weight.eq(0), ~mlp[0].weight_mask)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"*": "Intger"}, "did you mean Integer"),
        ({"*": "Integer(wdth=3)"}, "wdth=3 is no parameter"),
        ({"*": "Integer(width=99)"}, "width=99 is not in 2..32"),
        ({"*": {"wieght": "Integer"}}, "'wieght' is no tensor of a layer"),
        ({"*": 8}, "8 is not the text of a number format"),
        ({}, "is not a mapping"),
    ],
)
def test_a_wrong_recipe_is_refused(layers: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantize(layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["- 1", "quantise: {}", "quantize: [", "quantize: 3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match="Quantize"):
        Quantize.load(path)


def test_a_pattern_that_matches_nothing_changes_nothing(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="matches none of the 3 layers"):
        Quantize({"*": "Integer", "encoder.*": "MXInt"})(mlp)
    assert type(mlp[0]) is nn.Linear


def test_bits_count_shared_exponents_and_unquantised_layers(mlp: nn.Sequential) -> None:
    assert bits_per_weight(mlp) == 32
    # 16 columns fill half a block of 32, whose exponent takes 8 bits all the same.
    Quantize({"0": "MXInt(width=4, block_size=32)"})(mlp)
    expected = 512 * 4 + 32 * 8 + (256 + 16) * 32
    assert bits_per_weight(mlp) == expected / (512 + 256 + 16)


def test_summary_says_layers_formats_bits_and_size() -> None:
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 500, bias=False))
    Quantize({"0": "Integer(width=8, frac_width=4)"})(model)
    lines = summarize(model).splitlines()
    assert "1 layers    1,000,000 weights  input=Integer(width=8, frac_width=4)" in lines[0]
    assert "1 layers      500,000 weights  full precision" in lines[1]
    # One byte for each of 10^6 weights, four for the 500,000 others and the 1,000 biases.
    assert lines[2] == "16.00 bits per weight; 3.00 MB, 6.00 MB unquantised"
