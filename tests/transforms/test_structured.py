"""Structured pruning of BERT: what is left computes as if the rest were zero."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from lightning_adls.layers import QuantizedLinear
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.prune import Prune
from lightning_adls.transforms.structured import PruneStructured

INPUT = torch.arange(24).view(2, 12)
MASK = torch.ones(2, 12, dtype=torch.int64)
MASK[1, 7:] = 0
SIZE = 4  # of a head


def network(attention: str = "sdpa") -> Any:
    model = bert(
        vocab_size=50,
        hidden_size=16,
        num_attention_heads=16 // SIZE,
        intermediate_size=24,
        max_position_embeddings=12,
        attention=attention,
    )
    for p in model.parameters():  # the usual small weights hardly move the logits
        p.data = torch.randn_like(p) * 0.5
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(INPUT, attention_mask=MASK).logits
    return output


def weakest_zeroed(model: Any, heads: int, neurons: int) -> Any:
    """The model with nothing removed, but the weakest units cut off from what follows."""
    zeroed = copy.deepcopy(model).requires_grad_(False)
    for layer in zeroed.bert.encoder.layer:
        attention, out = layer.attention.self, layer.attention.output.dense.weight
        strengths = {}
        for head in range(attention.num_attention_heads):
            of_head = slice(head * SIZE, (head + 1) * SIZE)
            rows = (attention.query, attention.key, attention.value)
            strengths[head] = sum(float(m.weight[of_head].abs().sum()) for m in rows)
            strengths[head] += float(out[:, of_head].abs().sum())
        for head in sorted(strengths, key=strengths.__getitem__)[:heads]:
            out.data[:, head * SIZE : (head + 1) * SIZE] = 0
        into, out = layer.intermediate.dense.weight, layer.output.dense.weight
        weak = {n: float(into[n].abs().sum() + out[:, n].abs().sum()) for n in range(len(into))}
        for neuron in sorted(weak, key=weak.__getitem__)[:neurons]:
            out.data[:, neuron] = 0
    return zeroed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("heads", "neurons"), [(1, 0), (3, 0), (0, 1), (0, 23), (2, 12)])
def test_removing_the_weakest_is_setting_them_to_zero(
    heads: int, neurons: int, attention: str
) -> None:
    model = network(attention)
    expected, dense = logits(weakest_zeroed(model, heads, neurons)), logits(model)
    PruneStructured(heads / 4, neurons / 24)(model)
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert not torch.allclose(logits(model), dense, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_a_pruned_model_trains(training: bool) -> None:
    model = network().train(training)
    PruneStructured(heads=0.5, neurons=0.5)(model)
    assert all(module.training is training for module in model.modules())
    model(INPUT, attention_mask=MASK).logits.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape


@given(
    heads=st.floats(0, 0.999),
    neurons=st.floats(0, 0.999),
    method=st.sampled_from(["l1", "random"]),
    seed=st.integers(0, 9),
)
def test_the_share_is_removed_and_one_stays(heads, neurons, method, seed):  # type: ignore[no-untyped-def]
    model = network()
    PruneStructured(heads, neurons, method, seed)(model)
    kept_heads = max(1, 4 - round(heads * 4))
    kept_neurons = max(1, 24 - round(neurons * 24))
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        assert attention.num_attention_heads == kept_heads
        for into in (attention.query, attention.key, attention.value):
            assert into.weight.shape == (into.out_features, 16) == (kept_heads * SIZE, 16)
            assert into.bias.shape == (kept_heads * SIZE,)
        out = layer.attention.output.dense
        assert out.weight.shape == (16, out.in_features) == (16, kept_heads * SIZE)
        assert layer.intermediate.dense.weight.shape == (kept_neurons, 16)
        assert layer.output.dense.weight.shape == (16, kept_neurons)
    assert logits(model).isfinite().all()


def test_quantised_layers_keep_formats_masks_and_scales() -> None:
    model = network()
    Quantize(
        {
            "*.layer.*": {"weight": "Integer(width=6, frac_width=4)"},
            "*.layer.0.output.dense": {"input": "ResidualSign(levels=2)"},
        }
    )(model)
    Prune(0.3, layers=["*.layer.*"])(model)
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    formats = [m.formats for m in layers]
    scales = [m.input_scales for m in layers]
    masked = [by_value(m) for m in layers]
    PruneStructured(heads=0.5, neurons=0.5)(model)
    assert [m.formats for m in layers] == formats
    assert all(m.input_scales is s for m, s in zip(layers, scales, strict=True))
    for layer, before in zip(layers, masked, strict=True):
        after = by_value(layer)
        assert len(after) == len(before) / 2
        # In their order, too: neighbours share the exponents of block formats.
        assert list(after.items()) == [pair for pair in before.items() if pair[0] in after]
    assert logits(model).isfinite().all()


def by_value(layer: QuantizedLinear) -> dict[float, bool]:
    """Whether each weight is kept, by the weight, of which no two are the same."""
    assert layer.weight_mask is not None
    return dict(
        zip(layer.weight.flatten().tolist(), layer.weight_mask.flatten().tolist(), strict=True)
    )


def test_pruned_quantised_logits_are_those_of_zeroed_weights() -> None:
    model = network()
    zeroed = weakest_zeroed(model, 2, 12)
    for changed in (model, zeroed):
        # Element by element: a shared exponent may change with the columns that share it.
        Quantize({"*": {"weight": "Integer(width=8, frac_width=5)"}})(changed)
    with torch.no_grad():
        logits(model)  # the rounded weights are kept from now on
    PruneStructured(heads=0.5, neurons=0.5)(model)
    assert torch.allclose(logits(model), logits(zeroed), atol=1e-5)


def test_masked_weights_do_not_count_as_strength() -> None:
    model = network()
    dense = model.bert.encoder.layer[0].intermediate.dense
    dense.weight.data[3] = 100.0
    Prune(0.0, layers=["*.layer.0.*"])(model)
    model.bert.encoder.layer[0].intermediate.dense.weight_mask[3] = False
    model.bert.encoder.layer[0].output.dense.weight_mask[:, 3] = False
    PruneStructured(neurons=1 / 24)(model)
    pruned = model.bert.encoder.layer[0].intermediate.dense
    assert not (pruned.weight == 100).any()
    assert pruned.weight_mask.all()


def test_a_checkpoint_loads_into_another_model_pruned_by_the_same_shares(tmp_path: Any) -> None:
    transform = PruneStructured(heads=0.5, neurons=0.3)
    model, other = network(), network()
    transform(model)
    transform(other)
    assert not torch.equal(logits(model), logits(other))
    torch.save(model.state_dict(), tmp_path / "pruned.ckpt")
    other.load_state_dict(torch.load(tmp_path / "pruned.ckpt", weights_only=True))
    assert torch.equal(logits(model), logits(other))


def test_random_repeats_with_its_seed_and_leaves_the_global_generator_alone() -> None:
    model = network()
    state = torch.get_rng_state()
    first, again, other = (copy.deepcopy(model) for _ in range(3))
    PruneStructured(0.5, 0.5, "random", seed=1)(first)
    PruneStructured(0.5, 0.5, "random", seed=1)(again)
    PruneStructured(0.5, 0.5, "random", seed=2)(other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_nothing_to_remove_leaves_the_parameters_the_same_objects() -> None:
    model = network()
    before = list(map(id, model.parameters()))
    PruneStructured(heads=0.1, neurons=0.01)(model)
    assert list(map(id, model.parameters())) == before


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_every_model_that_holds_a_bert_encoder_is_pruned(kind: type[nn.Module]) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    model = nn.ModuleDict({"inner": kind(config)})
    weights = sum(p.numel() for p in model.parameters())
    PruneStructured(heads=0.5, neurons=0.5)(model)
    # Per layer: half of four 16 x 16 matrices and three biases, and of two 16 x 24 and one bias.
    removed = 2 * (4 * 128 + 3 * 8 + 2 * 192 + 12)
    assert sum(p.numel() for p in model.parameters()) == weights - removed
    model["inner"](INPUT, attention_mask=MASK)


def test_models_without_bert_layers_are_refused(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="PruneStructured: model=Sequential has no encoder layers"):
        PruneStructured(heads=0.5)(mlp)


def test_wrapped_linear_layers_are_refused_before_anything_changes() -> None:
    model = network()
    model.bert.encoder.layer[1].output.dense = nn.Sequential(nn.Linear(24, 16))
    with pytest.raises(ValueError, match="holds Sequential where a linear layer belongs"):
        PruneStructured(heads=0.5)(model)
    assert model.bert.encoder.layer[0].attention.self.num_attention_heads == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 1.0}, "heads=1.0 is not in 0 <= heads < 1"),
        ({"neurons": -0.5}, "neurons=-0.5 is not"),
        ({"method": "l2"}, "method='l2' is neither"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"PruneStructured: {message}"):
        PruneStructured(**arguments)


def test_biases_follow_their_rows() -> None:
    model = network()
    query = model.bert.encoder.layer[0].attention.self.query
    before = dict(zip(query.weight[:, 0].tolist(), query.bias.tolist(), strict=True))
    PruneStructured(heads=0.5)(model)
    after = dict(zip(query.weight[:, 0].tolist(), query.bias.tolist(), strict=True))
    assert len(after) == 8
    assert after.items() <= before.items()
