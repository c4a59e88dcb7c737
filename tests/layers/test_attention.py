"""The quantised attention against torch's own, and against linear layers that round."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, LearnedInteger, MXInt
from lightning_adls.layers import LayerFormats, QuantizedMultiheadAttention, quantized, weight_of
from lightning_adls.transforms import Quantize

FMT = Integer(width=4, frac_width=2)
shapes = st.fixed_dictionaries(
    {
        "dropout": st.sampled_from([0.0, 0.4]),
        **dict.fromkeys(("bias", "add_bias_kv", "add_zero_attn", "batch_first"), st.booleans()),
    }
)


def masked(kind: str, *shape: int) -> Tensor | None:
    """A mask of a kind that leaves the first position of each row."""
    if kind == "none":
        return None
    hidden = torch.rand(shape) > 0.6
    hidden[..., 0] = False
    return hidden if kind == "bool" else torch.randn(shape).masked_fill(hidden, -torch.inf)


@settings(max_examples=150)
@given(
    options=shapes,
    batched=st.booleans(),
    itself=st.booleans(),
    training=st.booleans(),
    need=st.booleans(),
    average=st.booleans(),
    attn=st.sampled_from(["none", "bool", "float", "per head", "causal"]),
    padding=st.sampled_from(["none", "bool", "float"]),
)
def test_without_formats_it_computes_what_the_plain_one_does(
    options: dict[str, Any],
    batched: bool,
    itself: bool,
    training: bool,
    need: bool,
    average: bool,
    attn: str,
    padding: str,
) -> None:
    plain = nn.MultiheadAttention(8, 2, **options).train(training)
    layer = quantized(plain, LayerFormats())
    samples, targets, sources = 3, 4, 4 if itself or attn == "causal" else 6
    first = batched and options["batch_first"]

    def tokens(length: int) -> Tensor:
        shape = (samples, length, 8) if first else (length, samples, 8)
        return torch.randn(shape if batched else (length, 8))

    query = tokens(targets)
    key, value = (query, query) if itself else (tokens(sources), tokens(sources))
    heads = (samples if batched else 1) * 2
    mask = {
        "per head": masked("bool", heads, targets, sources),
        "causal": torch.ones(targets, sources, dtype=torch.bool).triu(1),
    }.get(attn, masked(attn, targets, sources) if attn in ("bool", "float") else None)
    arguments = {
        "key_padding_mask": masked(padding, *((samples, sources) if batched else (sources,))),
        "need_weights": need,
        "attn_mask": mask,
        "average_attn_weights": average,
        "is_causal": attn == "causal",
    }
    results = []
    for module in (plain, layer):
        torch.manual_seed(0)
        results.append(module(query, key, value, **arguments))
    (theirs, their_weights), (ours, our_weights) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (our_weights is None) == (their_weights is None)
    if need:
        torch.testing.assert_close(our_weights, their_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fmt", [FMT, MXInt(width=4)], ids=str)
def test_it_is_linear_layers_that_round_around_attention(fmt: Any) -> None:
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(plain.in_proj_bias)
    query, memory = torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    formats = LayerFormats(fmt, fmt, FMT)  # blocks of the three stacked biases are others
    stacked, parts = (plain.in_proj_weight.chunk(3), plain.in_proj_bias.chunk(3)), []
    for weight, bias in zip(*stacked, strict=True):
        linear = nn.Linear(8, 8)
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        parts.append(quantized(linear, formats))
    heads = [
        part(x).unflatten(-1, (2, 4)).transpose(1, 2)
        for part, x in zip(parts, (query, memory, memory), strict=True)
    ]
    attended = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    layer: Any = quantized(plain, formats)
    layer.out_proj = quantized(plain.out_proj, formats)
    expected = layer.out_proj(attended)
    for need in (True, False):
        ours, _ = layer(query, memory, memory, need_weights=need)
        torch.testing.assert_close(ours, expected)


def test_gradients_reach_all_weights_and_masks_zero_them() -> None:
    layer = quantized(nn.MultiheadAttention(8, 2), LayerFormats(FMT, FMT, FMT))
    layer.weight_mask = torch.rand_like(weight_of(layer)) > 0.5
    x = torch.randn(4, 3, 8)
    layer(x, x, x)[0].square().sum().backward()
    assert {n for n, p in layer.named_parameters() if p.grad is not None} == {
        *("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }
    assert not layer.rounded_weight()[~layer.weight_mask].any()


@pytest.mark.parametrize("order", [0, 1])
def test_learned_scales_are_fitted_to_query_and_key_together(order: int) -> None:
    fmt = LearnedInteger(width=4)
    layer = quantized(nn.MultiheadAttention(8, 2), LayerFormats(fmt))
    query, memory = torch.randn(4, 3, 8), 100 * torch.randn(6, 3, 8)
    if order:
        query, memory = 100 * query, memory / 100
    layer(query, memory, memory)
    both = torch.cat([x.transpose(0, 1) for x in (query, memory, memory)], 1)
    torch.testing.assert_close(layer.input_scales, fmt.fit_scales(both), check_dtype=False)


def test_a_plain_checkpoint_loads_and_goes_back() -> None:
    plain, other = nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.MultiheadAttention(8, 2)
    layer = quantized(deepcopy(plain), LayerFormats())
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.load_state_dict(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
    assert layer.state_dict().keys() == plain.state_dict().keys() > other.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(4, 8)}, "give two dimensions"),
        ({"value": torch.zeros(5, 3, 8)}, "as many values as keys"),
        ({"query": torch.zeros(6, 1, 8)}, "as many samples of each"),
        ({"attn_mask": torch.zeros(1, 6)}, r"attn_mask is \(1, 6\); give one of shape \(6, 6\)"),
        ({"attn_mask": torch.zeros(6, 6, dtype=torch.int32)}, "attn_mask is of torch.int32"),
        ({"key_padding_mask": torch.zeros(1, 6)}, r"key_padding_mask is .* \(3, 6\)"),
        ({"is_causal": True}, "is_causal=True"),
        ({"query": torch.nested.nested_tensor([torch.zeros(2, 8)])}, "the input is nested"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(change: dict[str, Any], message: str) -> None:
    layer = QuantizedMultiheadAttention(8, 2, formats=LayerFormats())
    arguments = dict.fromkeys(("query", "key", "value"), torch.zeros(6, 3, 8)) | change
    message = f"^QuantizedMultiheadAttention: .*{message}"
    with pytest.raises(InputValueError, match=message) as error:
        layer(**arguments)
    assert "\n" not in str(error.value)


def test_a_weight_each_for_query_key_and_value_is_of_no_kind() -> None:
    with pytest.raises(InputValueError, match="layer=MultiheadAttention has no quantised kind"):
        quantized(nn.MultiheadAttention(8, 2, kdim=4), LayerFormats())


def test_torch_pruning_of_the_projection_is_refused_in_its_own_words() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    prune.l1_unstructured(model["attention"], "in_proj_weight", 0.5)
    with pytest.raises(InputValueError, match=r"makes its in_proj_weight anew .*'in_proj_weight'"):
        Quantize({"*": FMT})(model)
    prune.remove(model["attention"], "in_proj_weight")
    Quantize({"*": FMT})(model)
    with pytest.raises(InputValueError, match="cannot mask the weight of a quantised layer"):
        prune.l1_unstructured(model["attention"], "in_proj_weight", 0.5)


def test_it_compiles_to_one_graph() -> None:
    fmt = LearnedInteger(width=4)
    eager = quantized(nn.MultiheadAttention(8, 2, batch_first=True), LayerFormats(fmt, fmt, fmt))
    compiled = deepcopy(eager)
    compiled.compile(fullgraph=True, backend="eager")
    query, memory = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    for _ in range(2):
        theirs, _ = eager(query, memory, memory, mask)
        torch.testing.assert_close(compiled(query, memory, memory, mask)[0], theirs)
    torch.testing.assert_close(compiled.input_scales, eager.input_scales)
