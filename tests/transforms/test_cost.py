"""What a model costs to keep."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.formats import Binary, Integer, LearnedInteger, MXInt, NumberFormat
from lightning_adls.layers import LayerFormats, builder, quantized
from lightning_adls.transforms.cost import COSTS, costs, summarize, weight_bits
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


COUNT = 6 * 32  # weights that are shared, by layers of this shape


def linear(fmt: NumberFormat | None, backend: str = "standard") -> nn.Module:
    plain = nn.Linear(32, 6, bias=False)
    if fmt is None:
        return plain
    return builder(backend)(plain, LayerFormats(Integer(), fmt, Integer()))


def embedding(fmt: NumberFormat | None) -> nn.Module:
    plain = nn.Embedding(6, 32)
    return plain if fmt is None else quantized(plain, LayerFormats(weight=fmt))


class Scaled(nn.Module):
    """Holds a weight, which it may multiply with, and is of no kind that is quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(6, 32))


EIGHT, FOUR = Integer(width=8), Integer(width=4)
# Bits of one of the weights that the layers share, and those of the layers that multiply with it.
SHARED: dict[str, tuple[Callable[[], list[nn.Module]], float, float]] = {
    "one format": (lambda: [linear(EIGHT), linear(EIGHT)], 8, 8),
    "one format, also an embedding": (lambda: [linear(EIGHT), embedding(EIGHT)], 8, 8),
    "two formats": (lambda: [linear(EIGHT), linear(FOUR)], 12, 12),
    "two formats of two kinds": (lambda: [linear(EIGHT), embedding(FOUR)], 12, 8),
    "three formats": (
        lambda: [linear(EIGHT), linear(FOUR), linear(Binary()), linear(FOUR)],
        *(13, 13),
    ),
    "two backends": (lambda: [linear(EIGHT), linear(EIGHT, "mase")], 16, 16),
    "two sets of learned scales": (
        lambda: [linear(LearnedInteger(width=4)), linear(LearnedInteger(width=4))],
        # Each with its scale of 32 bits, a parameter that counts once.
        *(8 + 2 * 32 / COUNT, 8 + 2 * 32 / COUNT),
    ),
    "more than full precision": (
        lambda: [linear(Integer(width=20)), linear(Integer(width=18))],
        *(32, 32),
    ),
    "shared exponents": (lambda: [linear(MXInt(width=4)), linear(MXInt(width=8))], 12.5, 12.5),
    "a plain embedding": (lambda: [linear(EIGHT), embedding(None)], 32, 8),
    "a plain linear layer": (lambda: [linear(None), embedding(EIGHT), linear(FOUR)], 32, 32),
    "a module of another kind": (lambda: [linear(EIGHT), Scaled(), embedding(FOUR)], 32, 32),
}


@pytest.mark.parametrize(("make", "stored", "multiplied"), SHARED.values(), ids=SHARED)
def test_costs_of_shared_weights_do_not_depend_on_the_order_of_layers(
    make: Callable[[], list[nn.Module]], stored: float, multiplied: float
) -> None:
    layers, weight = make(), nn.Parameter(torch.randn(6, 32))
    for layer in layers:
        name = "table" if isinstance(layer, Scaled) else "weight"
        setattr(layer, name, weight)
    masks = torch.rand(len(layers), 6, 32) > 0.5
    pruned = [
        layer for layer in layers if getattr(layer, "formats", LayerFormats()) != LayerFormats()
    ]
    for layer, mask in zip(pruned, masks, strict=False):
        layer.weight_mask = mask
    found = [costs(nn.Sequential(*order)) for order in permutations(layers)]
    assert all(other == found[0] for other in found)
    assert found[0]["size_mb"] == pytest.approx(stored * COUNT / 8 / 1e6)
    assert found[0]["bits_per_weight"] == multiplied
    plain = any(type(layer) in (nn.Linear, Scaled) for layer in layers)
    zeros = 0 if plain else int((~masks[: len(pruned)].any(0)).sum())
    assert found[0]["sparsity"] == zeros / COUNT


def test_a_weight_counts_in_its_format_even_if_that_is_wider_than_its_data_type() -> None:
    layer = nn.Linear(32, 6, bias=False, dtype=torch.bfloat16)
    wide = quantized(layer, LayerFormats(weight=Integer(width=20)))
    assert costs(nn.Sequential(wide))["bits_per_weight"] == 20


def test_memory_of_shared_tensors_does_not_depend_on_the_order_of_layers() -> None:
    layers = [linear(None), embedding(None), linear(EIGHT)]
    for layer in layers:
        layer.weight = layers[0].weight
    found = [memory(nn.Sequential(*order)) for order in permutations(layers)]
    assert all(other == found[0] for other in found)
    assert {kind: size for kind, size in found[0].items() if size} == {"embeddings": 4 * COUNT}


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


@pytest.mark.parametrize(
    ("layer", "rows"),
    [
        (nn.ConvTranspose1d(6, 4, 3, groups=2), (4, 9)),
        (nn.ConvTranspose2d(3, 40, (1, 2)), (40, 6)),
        (nn.Conv3d(4, 2, 2), (2, 32)),
        (nn.MultiheadAttention(40, 2), (120, 40)),
        (Conv1D(3, 40), (3, 40)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_blocks_are_counted_along_what_an_output_sums_over(
    layer: nn.Module, rows: tuple[int, int]
) -> None:
    fmt = MXInt(width=4, block_size=32)
    found = quantized(layer, LayerFormats(weight=fmt))
    # Each row begins a block of its own, and a block has an exponent of 8 bits.
    assert weight_bits(found) == rows[0] * (4 * rows[1] + 8 * -(-rows[1] // 32))
    assert weight_bits(layer) == rows[0] * rows[1] * 32
