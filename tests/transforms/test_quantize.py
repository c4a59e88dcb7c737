"""Recipes: reading, writing, applying and summing them up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, MXInt, NumberFormat
from lightning_adls.layers import KINDS, LayerFormats, QuantizedEmbedding, QuantizedLinear
from lightning_adls.transforms import Prune, Quantize, bits_per_weight, summarize
from lightning_adls.transforms.cost import size_mb
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
    assert mlp[0].formats == LayerFormats(*[MXInt(width=4)] * 3)
    assert type(mlp[2]) is nn.Linear
    assert isinstance(mlp[3], nn.Sequential)
    assert mlp[3][0].formats == LayerFormats(weight=Integer())


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


def test_a_file_that_is_not_there_or_cannot_be_read_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    for name, message in (
        ("none.yaml", "there is no file"),
        (".", "cannot be read"),
        ("binary.yaml", "is not YAML"),
    ):
        with pytest.raises(InputValueError, match=f"Quantize: .*{message}"):
            Quantize.load(tmp_path / name)


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
    assert "1 layer     1,000,000 weights  input=Integer(width=8, frac_width=4)" in lines[0]
    assert "1 layer       500,000 weights  full precision: 1 (Linear, in no recipe)" in lines[1]
    # One byte for each of 10^6 weights, four for the 500,000 others and the 1,000 biases.
    assert lines[2] == "16.00 bits per weight; 3.00 MB, 6.00 MB unquantised"


def net() -> nn.Sequential:
    """One layer of each kind."""
    return nn.Sequential(
        nn.Embedding(10, 16), nn.Conv1d(4, 8, 3), nn.Conv2d(2, 4, 2), nn.Linear(16, 4)
    )


def test_embeddings_are_quantised_only_where_they_are_asked_for() -> None:
    model = net()
    Quantize({"*": "MXInt(width=4)"})(model)
    assert [type(layer).__name__ for layer in model] == [
        *("Embedding", "QuantizedConv1d", "QuantizedConv2d", "QuantizedLinear")
    ]
    Quantize({"*": "MXInt(width=4)"}, kinds=["Embedding"])(model)
    assert type(model[0]) is QuantizedEmbedding


def test_kinds_are_kept_in_text_and_file(tmp_path: Path) -> None:
    recipe = Quantize({"*": "MXInt"}, kinds=["Linear", "Embedding"])
    recipe.save(tmp_path / "recipe.yaml")
    assert Quantize.load(tmp_path / "recipe.yaml") == recipe
    assert "Embedding" in str(recipe)


@pytest.mark.parametrize("kinds", ["Linear", ["Conv4d"]])
def test_unknown_kinds_are_refused(kinds: Any) -> None:
    with pytest.raises(ValueError, match=r"kinds=.* some of Linear, Conv1d"):
        Quantize({"*": None}, kinds=kinds)


def test_quantising_again_keeps_learned_scales() -> None:
    recipe = Quantize({"*": "LearnedInteger(width=4)"})
    model = nn.Sequential(nn.Linear(8, 8))
    recipe(model)
    model(torch.randn(3, 8))
    layer, scales = model[0], model[0].input_scales
    recipe(model)
    assert model[0] is layer
    Quantize({"*": {"input": "LearnedInteger(width=4)", "weight": "MXInt"}})(model)
    assert model[0].input_scales is scales


def test_masks_and_scales_of_every_kind_pass_to_a_plain_model() -> None:
    model = net()
    Quantize({"*": {"weight": "LearnedInteger(width=4)"}}, kinds=tuple(KINDS))(model)
    Prune(0.5, kinds=tuple(KINDS))(model)
    plain = net()
    plain.load_state_dict(state_for(plain, model.state_dict()))
    masks = {name: mask for name, mask in model.state_dict().items() if name.endswith("_mask")}
    assert len(masks) == 4
    for name, weight in plain.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(weight != 0, masks[f"{name}_mask"])


def test_size_counts_quantised_embeddings_and_shared_weights_once() -> None:
    model = nn.Sequential(nn.Embedding(1000, 32), nn.Linear(32, 1000, bias=False))
    model[1].weight = model[0].weight
    assert size_mb(model) == 0.128
    Quantize({"*": "Integer(width=8)"}, kinds=("Linear", "Embedding"))(model)
    assert size_mb(model) == 0.032


def test_bits_of_a_model_without_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="model=ReLU has no weight that is multiplied with"):
        bits_per_weight(nn.ReLU())


def test_learned_scales_of_a_checkpoint_reach_a_model_that_has_not_fitted_its_own() -> None:
    recipe = Quantize({"*": "LearnedInteger(width=4)"})
    trained, fresh = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))
    recipe(trained)
    recipe(fresh)
    trained(100 * torch.randn(3, 8))
    fresh.load_state_dict(state_for(fresh, trained.state_dict()))
    scales = dict(trained.named_parameters())["0.input_scales"]
    assert torch.equal(dict(fresh.named_parameters())["0.input_scales"], scales)
    x = torch.randn(3, 8)
    assert torch.equal(fresh(x), trained(x))
