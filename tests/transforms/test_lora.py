"""Adapters: what inserting, training and merging them changes, and what it must not."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.layers import QuantizedLinear
from lightning_adls.layers.dropout import BitDropout
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.flops import flops_per_sample
from lightning_adls.transforms.lora import LoRA, freeze, merge_lora, parameter_counts
from lightning_adls.transforms.pack import Pack

QUERY = "bert.encoder.layer.0.attention.self.query"
VALUE = "bert.encoder.layer.0.attention.self.value"


def logits(model: nn.Module, texts: TextData) -> Tensor:
    batch = next(iter(texts.val_dataloader()))
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return torch.as_tensor(output.logits)


def fill_b(model: nn.Module) -> None:
    """Make the adapters do something, as training would."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


def adapted(lora: LoRA, linear: nn.Linear) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A model of one layer with an adapter that is not zero, and the adapter's A and B."""
    model = nn.Sequential(linear)
    lora(model)
    fill_b(model)
    found = dict(model.named_parameters())
    return model, found["0.lora_A.default.weight"], found["0.lora_B.default.weight"]


@pytest.mark.parametrize("recipe", [None, {"*": "MXInt(width=4)"}])
def test_inserting_changes_no_logit(
    tiny_bert: nn.Module, texts: TextData, recipe: dict[str, str] | None
) -> None:
    if recipe is not None:
        Quantize(recipe)(tiny_bert)
    before = logits(tiny_bert.eval(), texts)
    LoRA(layers=("*",), trainable=())(tiny_bert)
    assert torch.equal(logits(tiny_bert.eval(), texts), before)
    for name, parameter in tiny_bert.named_parameters():
        if "lora_B" in name:
            assert not parameter.any(), name
        elif "lora_A" in name:
            assert parameter.std() > 0, name


def test_the_layer_below_an_adapter_keeps_its_weight_and_bias(tiny_bert: nn.Module) -> None:
    linear = tiny_bert.get_submodule(QUERY)
    weight, bias = linear.weight, linear.bias
    LoRA()(tiny_bert)
    base = tiny_bert.get_submodule(f"{QUERY}.base_layer")
    assert base is linear
    assert base.weight is weight
    assert base.bias is bias


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (2, 16.0), (8, 4.0), (5, 0.5)])
def test_the_output_is_that_of_the_paper(rank: int, alpha: float) -> None:
    linear = nn.Linear(12, 7)
    lora = LoRA(layers=("0",), rank=rank, alpha=alpha, dropout=0.0, trainable=())
    model, a, b = adapted(lora, linear)
    assert a.shape == (rank, 12)
    assert b.shape == (7, rank)
    x = torch.randn(4, 12)
    expected = x @ linear.weight.T + linear.bias + alpha / rank * (x @ a.T @ b.T)
    torch.testing.assert_close(model(x), expected)


def test_dropout_acts_in_training_alone_and_on_the_adapter_alone() -> None:
    lora = LoRA(layers=("0",), rank=2, alpha=2.0, dropout=0.25, trainable=())
    linear = nn.Linear(4096, 3)
    model, a, b = adapted(lora, linear)
    # With an input, A and a column of B that are ones, the adapter counts what it is given.
    a.data.fill_(1.0)
    b.data.zero_()[:, 0] = 1.0
    x = torch.ones(1, 4096)
    torch.testing.assert_close(model.eval()(x) - linear(x), torch.full((1, 3), 4096.0))
    kept = 0.75 * (model.train()(x) - linear(x))  # dropout divides by the probability of keeping
    assert 2900 < kept.min() <= kept.max() < 3250
    torch.testing.assert_close(kept, kept.round(), atol=1e-2, rtol=0)
    assert not torch.equal(model(x) - linear(x), model(x) - linear(x))
    assert [m.p for m in model.modules() if isinstance(m, BitDropout)] == [0.25]


def test_training_moves_the_adapters_and_the_head_and_nothing_else(
    tiny_bert: nn.Module, texts: TextData, trainer: L.Trainer
) -> None:
    module = TextClassifier(tiny_bert, [LoRA(rank=4)], learning_rate=1e-2, weight_decay=0.5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, datamodule=texts)
    moved = {n for n, value in module.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {
        *(f"model.{at}.lora_{x}.default.weight" for at in (QUERY, VALUE) for x in "AB"),
        "model.classifier.weight",
        "model.classifier.bias",
    }


def test_counts_are_those_of_an_independent_sum(tiny_bert: nn.Module, texts: TextData) -> None:
    h, i, v, t, r = 16, 32, texts.vocab_size, 24, 4
    norm = 2 * h
    embeddings = (v + t + 2) * h + norm
    layer = 4 * (h * h + h) + norm + (h * i + i) + (i * h + h) + norm
    head = h * 2 + 2
    plain = embeddings + layer + (h * h + h) + head
    assert parameter_counts(tiny_bert) == (plain, plain)
    freeze(tiny_bert, ["bert.embeddings.*"])
    assert parameter_counts(tiny_bert) == (plain - embeddings, plain)
    LoRA(rank=r)(tiny_bert)
    adapters = 2 * r * (h + h)
    assert parameter_counts(tiny_bert) == (adapters + head, plain + adapters)
    merge_lora(tiny_bert)
    assert parameter_counts(tiny_bert) == (head, plain)


def test_a_parameter_in_two_places_counts_once() -> None:
    linear = nn.Linear(3, 3)
    assert parameter_counts(nn.Sequential(linear, linear)) == (12, 12)
    tied = nn.Sequential(linear, nn.Linear(3, 3, bias=False))
    tied[1].weight = linear.weight
    assert parameter_counts(tied) == (12, 12)


def test_merging_keeps_the_logits_and_gives_back_the_plain_model(
    tiny_bert: nn.Module, texts: TextData
) -> None:
    plain = copy.deepcopy(tiny_bert)
    LoRA(layers=("bert.*",), rank=4, dropout=0.5)(tiny_bert)
    fill_b(tiny_bert)
    before = logits(tiny_bert.eval(), texts)
    merge_lora(tiny_bert)
    torch.testing.assert_close(logits(tiny_bert, texts), before, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(plain.eval(), texts), before, atol=1e-2)
    assert [type(m) for m in tiny_bert.modules()] == [type(m) for m in plain.modules()]
    assert list(tiny_bert.state_dict()) == list(plain.state_dict())
    assert vars(tiny_bert).keys() == vars(plain).keys()
    plain.load_state_dict(tiny_bert.state_dict())
    assert torch.equal(logits(plain, texts), logits(tiny_bert, texts))


def test_adapters_can_be_inserted_again_after_merging(
    tiny_bert: nn.Module, texts: TextData
) -> None:
    LoRA()(tiny_bert)
    fill_b(tiny_bert)
    merge_lora(tiny_bert)
    before = logits(tiny_bert.eval(), texts)
    LoRA(layers=("*.key",), rank=2)(tiny_bert)
    assert torch.equal(logits(tiny_bert.eval(), texts), before)


def test_merging_into_a_quantised_layer_adds_in_full_precision_and_rounds_the_sum() -> None:
    linear = nn.Linear(32, 8)
    quantised = nn.Sequential(linear)
    Quantize({"*": {"weight": "Integer(width=4, frac_width=2)"}})(quantised)
    layer = quantised[0]
    assert isinstance(layer, QuantizedLinear)
    weight = layer.weight
    before = weight.detach().clone()
    model, a, b = adapted(
        LoRA(layers=("0",), rank=2, alpha=1.0, dropout=0.0, trainable=()), layer.eval()
    )
    x = torch.randn(5, 32)
    with torch.no_grad():
        rounded = (before * 4).round().clamp(-8, 7) / 4
        expected = x @ rounded.T + layer.bias + 0.5 * x @ a.T @ b.T
        torch.testing.assert_close(model.eval()(x), expected)  # and the rounded weight is kept
        merge_lora(model)
        merged = before + 0.5 * b @ a
        assert model[0] is layer
        assert layer.weight is weight
        torch.testing.assert_close(weight.data, merged)
        rounded = (weight * 4).round().clamp(-8, 7) / 4
        torch.testing.assert_close(model(x), x @ rounded.T + layer.bias)


def test_merging_brings_no_pruned_weight_back() -> None:
    model = nn.Sequential(nn.Linear(16, 8))
    Quantize({"*": "MXInt(width=4)"})(model)
    layer = model[0]
    assert isinstance(layer, QuantizedLinear)
    mask = torch.rand(8, 16) > 0.5
    layer.weight_mask = mask
    model, _, _ = adapted(LoRA(layers=("0",), trainable=()), layer)
    merge_lora(model)
    assert layer.weight_mask is mask
    assert not layer.rounded_weight()[~mask].any()


def test_a_quantised_bert_with_adapters_trains_the_adapters(
    tiny_bert: nn.Module, texts: TextData, trainer: L.Trainer
) -> None:
    recipe = Quantize({"*": "MXInt(width=4)"})
    module = TextClassifier(tiny_bert, [recipe, LoRA(layers=("bert.*",))], learning_rate=1e-2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, datamodule=texts)
    for name, value in module.state_dict().items():
        if name.endswith("_extra_state"):  # the recipe
            continue
        trained = "lora_" in name or "classifier." in name
        assert torch.equal(value, before[name]) != trained, name


def test_merging_a_sum_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    LoRA(layers=("*",), trainable=())(model)
    fill_b(model.eval())
    model.get_parameter("1.lora_B.default.weight").data.fill_(float("nan"))
    first, x = model[0], torch.randn(3, 4)
    expected, keys = first(x), list(model.state_dict())
    with pytest.raises(ValueError, match="merge_lora: layer '1' plus its adapter is not finite"):
        merge_lora(model)
    assert model[0] is first
    assert torch.equal(first(x), expected)
    assert list(model.state_dict()) == keys


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.out = nn.Linear(50, 16, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return torch.as_tensor(self.out(self.head(self.words(ids))))


@pytest.mark.parametrize("quantised", [False, True])
def test_adapters_on_a_weight_that_another_layer_uses_are_refused(quantised: bool) -> None:
    model = Tied()
    if quantised:
        Quantize({"*": "MXInt(width=8)"})(model)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="LoRA: layer 'head' shares its weight with another"):
        LoRA(layers=("*",), trainable=())(model)
    assert list(model.state_dict()) == keys
    LoRA(layers=("out",), trainable=())(model)
    fill_b(model)
    before = model.eval()(torch.arange(50))
    assert merge_lora(model) < (1 if quantised else 1e-5)
    torch.testing.assert_close(model(torch.arange(50)), before, atol=1e-4, rtol=10 * quantised)


def test_a_weight_that_is_shared_after_inserting_is_refused_by_merging() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    LoRA(layers=("a",), trainable=())(model)
    fill_b(model)
    model.get_submodule("b").weight = model.get_submodule("a.base_layer").weight
    before = model.get_parameter("b.weight").detach().clone()
    with pytest.raises(ValueError, match="merge_lora: layer 'a' shares its weight with another"):
        merge_lora(model)
    assert torch.equal(model.get_parameter("b.weight"), before)
    with pytest.raises(ValueError, match=r"LoRA: layer=Linear.* makes its weight anew"):
        LoRA(layers=("0",), trainable=())(nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))))


@pytest.mark.parametrize(
    "change",
    [
        Prune(0.5),
        Prune(0.5, scope="global"),
        Quantize({"*": None, "*lora_*": {"weight": "MXInt(width=4)"}}),
        Quantize({"*lora_A*": {"weight": "LearnedInteger(width=4)"}}),
        Quantize({"*base_layer": "Integer(width=8, frac_width=5)", "*.lora_*": None}),
    ],
    ids=str,
)
def test_adapters_that_were_rounded_or_masked_are_merged_as_they_were(
    change: Callable[[nn.Module], None],
) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    LoRA(layers=("*",), rank=4, trainable=())(model)
    fill_b(model)
    change(model)
    model.eval()
    x = torch.randn(500, 32)
    before = [model[0](x), model[2](x)]
    change_of = merge_lora(model)
    after = [model[0](x), model[2](x)]
    off = max(((a - b).norm() / b.norm()).item() for a, b in zip(after, before, strict=True))
    # The base drops what the adapter had added to pruned weights, and rounds the sum.
    assert off == pytest.approx(change_of, rel=0.2, abs=1e-6)
    if "base_layer" not in str(change) and not isinstance(change, Prune):
        assert change_of < 1e-6
    assert all("lora" not in name for name, _ in model.named_modules())


@pytest.mark.parametrize(
    "change", [Quantize({"*": "MXInt(width=8)"}), Prune(0.0, activation_sparsity=0.5)]
)
def test_adapters_whose_input_is_rounded_or_dropped_are_not_merged(
    change: Callable[[nn.Module], None],
) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4)).eval()
    LoRA(layers=("*",), rank=4, trainable=())(model)
    change(model)
    x = torch.randn(3, 32)
    expected = model(x)
    with pytest.raises(ValueError, match=r"layer '0\.lora_A\.default' rounds or drops the input"):
        merge_lora(model)
    assert torch.equal(model(x), expected)


def test_merging_into_a_packed_weight_is_refused() -> None:
    model = nn.Sequential(nn.Linear(32, 4))
    LoRA(layers=("*",), rank=4, trainable=())(model)
    Pack(["0.base_layer"])(model)
    with pytest.raises(ValueError, match="layer '0' is a PackedLinear without a weight of its own"):
        merge_lora(model)


def test_merging_says_how_much_the_outputs_change() -> None:
    model: Any = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    Quantize({"0": "MXInt(width=2)"})(model)
    LoRA(layers=("*",), rank=4, trainable=())(model)
    fill_b(model)
    quantised, plain, calls = copy.deepcopy(model[:1]), copy.deepcopy(model[1:]), []
    x = torch.randn(4000, 64)
    with torch.no_grad():
        before = quantised(x)
        quantised[0].base_layer.register_forward_hook(lambda *_: calls.append(1))
        state = torch.get_rng_state()
        change = merge_lora(quantised)
        assert torch.equal(torch.get_rng_state(), state)
        assert not calls  # a hook does not see the numbers that are measured with
        off = ((quantised(x) - before).norm() / before.norm()).item()
    assert change > 0.1
    assert off == pytest.approx(change, rel=0.1)
    assert 0 < merge_lora(plain) < 1e-6
    assert merge_lora(model) == pytest.approx(change)


def test_names_are_matched_exactly() -> None:
    """PEFT takes a name in a list also for the end of a longer name."""
    model = nn.ModuleDict({"out": nn.Linear(4, 4), "deep": nn.ModuleDict({"out": nn.Linear(4, 4)})})
    LoRA(layers=("out",), trainable=())(model)
    assert type(model.get_submodule("deep.out")) is nn.Linear
    assert type(model["out"]) is not nn.Linear


def test_frozen_embeddings_stay_as_they_are(
    tiny_bert: nn.Module, texts: TextData, trainer: L.Trainer
) -> None:
    freeze(tiny_bert, ["bert.embeddings.*"])
    before = {name: value.clone() for name, value in tiny_bert.state_dict().items()}
    trainer.fit(TextClassifier(tiny_bert, learning_rate=1e-2), datamodule=texts)
    for name, value in tiny_bert.state_dict().items():
        # A key's bias shifts all scores of a query alike, which softmax does not see.
        if not name.endswith("key.bias"):
            assert torch.equal(value, before[name]) == name.startswith("bert.embeddings."), name


def test_a_lora_checkpoint_loads_into_a_model_with_the_same_adapters(
    tiny_bert: nn.Module, texts: TextData, trainer: L.Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "lora.ckpt"
    module = TextClassifier(copy.deepcopy(tiny_bert), [LoRA()])
    trainer.fit(module, datamodule=texts)
    trainer.save_checkpoint(path)
    other = TextClassifier(tiny_bert, [LoRA()])
    other.load_weights(path)
    assert torch.equal(logits(other.model.eval(), texts), logits(module.model.eval(), texts))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "LoRA: rank=0 is below 1"),
        (lambda: LoRA(alpha=0.0), r"LoRA: alpha=0\.0 is not above 0"),
        (lambda: LoRA(alpha=float("nan")), "LoRA: alpha=nan is not above 0"),
        (lambda: LoRA(dropout=1.0), r"LoRA: dropout=1\.0 is not in"),
        (lambda: LoRA(layers=()), "LoRA: layers=\\(\\) leaves no layer"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], LoRA], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoRA(layers=("*.qery",)), "pattern '\\*.qery' matches none of the 8"),
        (LoRA(trainable=("clasifier.*",)), "pattern 'clasifier.\\*' matches none"),
    ],
)
def test_a_pattern_that_matches_nothing_changes_nothing(
    tiny_bert: nn.Module, lora: LoRA, message: str
) -> None:
    keys, counts = list(tiny_bert.state_dict()), parameter_counts(tiny_bert)
    with pytest.raises(ValueError, match=message):
        lora(tiny_bert)
    assert list(tiny_bert.state_dict()) == keys
    assert parameter_counts(tiny_bert) == counts


def test_adapters_on_adapters_and_on_shared_layers_are_refused(mlp: nn.Sequential) -> None:
    LoRA(layers=("0",), trainable=())(mlp)
    with pytest.raises(ValueError, match="has adapters already"):
        LoRA(layers=("2",), trainable=())(mlp)
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="layer '0' is used in two places"):
        LoRA(layers=("*",), trainable=())(nn.Sequential(shared, nn.ReLU(), shared))


def test_merging_without_adapters_is_refused(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="merge_lora: the model has no adapters"):
        merge_lora(mlp)


def test_freezing_nothing_and_everything_are_refused(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"freeze: pattern 'encoder\.\*' matches none"):
        freeze(mlp, ["0.*", "encoder.*"])
    with pytest.raises(ValueError, match="leave no parameter to train"):
        freeze(mlp, ["*"])
    assert all(p.requires_grad for p in mlp.parameters())


def test_without_peft_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA: PEFT is not installed; run pip install 'peft"):
        LoRA()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rank", [0, 3])
def test_flops_are_those_of_the_products_in_a_bert(attention: str, rank: int) -> None:
    h, i, layers, t = 24, 40, 3, 18
    model = bert(
        vocab_size=50,
        hidden_size=h,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=i,
        max_position_embeddings=32,
        attention=attention,
    )
    products = layers * (4 * t * h * h + 2 * t * t * h + 2 * t * h * i) + h * h + h * 2
    if rank:
        LoRA(rank=rank)(model)
        products += layers * 2 * (2 * t * h * rank)
    model.train()
    state = torch.get_rng_state()
    assert flops_per_sample(model, t) == 2 * products
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_flops_of_no_tokens_are_refused(tiny_bert: nn.Module) -> None:
    with pytest.raises(ValueError, match="flops_per_sample: tokens=0 is below 1"):
        flops_per_sample(tiny_bert, 0)


def test_what_adapters_freeze_is_rounded_once_in_training(
    tiny_bert: nn.Module, texts: TextData
) -> None:
    Quantize({"*": "MXInt(width=4)"})(tiny_bert)
    LoRA(rank=2)(tiny_bert)
    batch = next(iter(texts.train_dataloader()))
    layers = [layer for layer in tiny_bert.modules() if isinstance(layer, QuantizedLinear)]
    for _ in range(2):
        tiny_bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        kept = [layer._kept for layer in layers if not layer.weight.requires_grad]
    assert tiny_bert.training
    assert len(kept) == len(layers) - 1, "all but the head"
    assert None not in kept
