"""What a model costs to keep."""

import pytest
import torch
from torch import nn

from lightning_adls.layers import LayerFormats, quantized
from lightning_adls.transforms.cost import COSTS, costs, summarize
from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.pack import Pack, memory
from lightning_adls.transforms.quantize import Quantize


def test_costs_of_a_plain_model_are_those_of_its_data_types(mlp: nn.Sequential) -> None:
    mlp.append(nn.LayerNorm(2, dtype=torch.bfloat16))
    found = costs(mlp)
    assert tuple(found) == COSTS
    weights, biases = 16 * 32 + 32 * 8 + 8 * 2, 32 + 8 + 2
    assert found["parameters"] == weights + biases + 4
    assert found["size_mb"] == pytest.approx((4 * (weights + biases) + 2 * 4) / 1e6)
    assert found["bits_per_weight"] == 32
    assert found["sparsity"] == 0


def test_weights_count_in_their_format_and_all_else_in_its_data_type(mlp: nn.Sequential) -> None:
    Quantize({"*": "Integer(width=5, frac_width=3)"})(mlp)
    found = costs(mlp)
    weights, biases = 16 * 32 + 32 * 8 + 8 * 2, 32 + 8 + 2
    assert found["bits_per_weight"] == 5
    assert found["size_mb"] == pytest.approx((weights * 5 / 8 + biases * 4) / 1e6)
    assert found["parameters"] == weights + biases


def test_sparsity_is_the_share_of_masked_weights_and_saves_no_storage(mlp: nn.Sequential) -> None:
    plain = costs(mlp)
    layer = quantized(mlp[0], LayerFormats())
    mlp[0] = layer
    layer.weight_mask = torch.ones(32, 16, dtype=torch.bool)
    layer.weight_mask[:10] = False
    found = costs(mlp)
    assert found["sparsity"] == 10 * 16 / (16 * 32 + 32 * 8 + 8 * 2)
    assert found["size_mb"] == plain["size_mb"]


def test_a_parameter_that_is_used_twice_counts_once() -> None:
    layer = nn.Linear(4, 4)
    assert costs(nn.Sequential(layer, layer)) == costs(nn.Sequential(layer))


def test_a_dropped_layer_costs_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    Drop(["0"])(model)
    assert costs(model) == costs(nn.Sequential(nn.Linear(4, 2)))


def test_packed_weights_count_with_the_bytes_that_they_take(mlp: nn.Sequential) -> None:
    plain = costs(mlp)
    Pack(["0", "2"])(mlp)
    found = costs(mlp)
    assert found["parameters"] == plain["parameters"]
    assert found["size_mb"] == pytest.approx(sum(memory(mlp).values()) / 1e6)
    # 16 and 32 columns: one exponent in each row of 32 and of 8.
    bits = 8 * (16 * 32 + 32 + 32 * 8 + 8) + 32 * 8 * 2
    assert found["bits_per_weight"] == pytest.approx(bits / (16 * 32 + 32 * 8 + 8 * 2))
    table = summarize(mlp)
    assert "2 layers" in table
    assert "weight=MXInt(width=8" in table
    assert f"{plain['size_mb']:.2f} MB unquantised" in table
