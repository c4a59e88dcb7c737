"""Finding layers by name and replacing them."""

import pytest
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_adls.transforms.walk import layers_of, match, replace_layers


def test_later_patterns_win() -> None:
    assert match(["a.key", "a.value", "b"], {"*": 1, "a.*": 2, "*.key": 3}, "Test") == {
        "a.key": 3,
        "a.value": 2,
        "b": 1,
    }


def test_names_that_no_pattern_matches_are_left_out() -> None:
    assert match(["a", "b"], {"b": 1}, "Test") == {"b": 1}


def test_a_pattern_that_matches_nothing_is_refused_with_names_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"Test: pattern 'encodr\.\*' matches none of the 2.*a, b"):
        match(["a", "b"], {"*": 1, "encodr.*": 2}, "Test")


def test_layers_whose_owner_reads_their_weight_are_not_found() -> None:
    class Attention(nn.MultiheadAttention):
        pass

    model = nn.ModuleDict(
        {
            "attention": Attention(8, 2),
            "separate": nn.MultiheadAttention(8, 2, kdim=4),
            "alone": NonDynamicallyQuantizableLinear(8, 2),
            "out": nn.Linear(8, 2),
        }
    )
    model["attention"].out_proj = nn.Linear(8, 8)
    assert list(layers_of(model)) == ["out"]
    assert not layers_of(nn.MultiheadAttention(8, 2))  # which nothing can take the place of


def test_a_layer_in_two_places_is_replaced_by_one_layer_in_both() -> None:
    shared = nn.Linear(4, 4)
    inner = nn.Sequential(shared)
    model = nn.ModuleDict({"a": shared, "b": inner, "c": nn.Linear(4, 4)})
    replace_layers(model, ["a"], lambda name, layer: nn.Identity(), carry=False)
    assert isinstance(model["a"], nn.Identity)
    assert inner[0] is model["a"]
    assert isinstance(model["c"], nn.Linear)
