"""First-order scores against finite differences, and what they leave as it was."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from planned_networks import LAYERS, Net, Trace, conv_net, cross_entropy, net
from torch import Tensor, nn

from lightning_adls import Quantize, Scores, sensitivity
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.formats import Integer, LearnedInteger, MXInt, NumberFormat, ResidualSign
from lightning_adls.layers import KINDS, ROLES, LayerFormats, quantized
from lightning_adls.planning import (
    divergence,
    loss_increase,
    measured,
    measured_sensitivity,
    rows_of,
)

FORMATS = [Integer(4, 2), MXInt(4), LearnedInteger(3), ResidualSign(2, scale="per_tensor")]
ALL_KINDS = tuple(KINDS)


def shifted(model: Net, x: Tensor, role: str, fmt: NumberFormat, step: float) -> float:
    """The loss of a sample whose tensor is moved by a part of its rounding error."""
    layer = quantized(model.layer, LayerFormats(**{role: fmt})).eval()
    with torch.no_grad():
        if role == "input":
            model.change = lambda x: x + step * (layer.rounded_input(x) - x)
            value = float(model.loss(x))
            model.change = lambda x: x
            return value
        name = layer.weight_name if role == "weight" else layer.bias_name
        parameter = getattr(model.layer, name)
        rounded = layer.rounded_weight() if role == "weight" else layer.rounded_bias()
        assert rounded is not None
        kept = parameter.detach().clone()
        parameter += step * (rounded - parameter)
        value = float(model.loss(x))
        parameter.copy_(kept)
        return value


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_scores_are_what_finite_differences_say(kind: str, fmt: NumberFormat) -> None:
    model, x = net(kind)
    scores = sensitivity(model.eval(), [x], [fmt], kinds=ALL_KINDS, layers=["layer"])
    for role in ROLES:
        layer = quantized(model.layer, LayerFormats(fmt, fmt, fmt))
        has = getattr(layer.formats, role) is not None and (
            role != "bias" or layer.rounded_bias() is not None
        )
        squares = [
            ((shifted(model, row, role, fmt, 1e-5) - shifted(model, row, role, fmt, -1e-5)) / 2e-5)
            ** 2
            for row in x[:, None]
            if has
        ]
        expected = sum(squares) / 2 / len(x)
        assert scores.values["layer", role, str(fmt)] == pytest.approx(expected, rel=1e-5)
        assert (expected > 0) == has


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12])
def test_scores_do_not_depend_on_how_samples_are_batched(sizes: list[int]) -> None:
    model, (x, y) = conv_net()
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    scores = sensitivity(model, batches, FORMATS, loss=cross_entropy)
    assert scores == sensitivity(model, [(x, y)], FORMATS, loss=cross_entropy)
    assert scores.samples == 12


def test_a_batch_can_be_one_sample() -> None:
    model, batch = conv_net()
    whole = sensitivity(model, [batch], ["MXInt"], loss=cross_entropy, split=lambda b: [b])
    assert whole.samples == 1
    assert whole.values != sensitivity(model, [batch], ["MXInt"], loss=cross_entropy).values


@pytest.mark.parametrize("function", [sensitivity, measured_sensitivity])
def test_the_model_is_left_bit_for_bit_as_it_was(function: Any) -> None:
    model, batch = conv_net()
    cross_entropy(model, batch).backward()
    model.norm.eval()
    model.head.register_forward_hook(lambda *_: None)
    before = Trace(model)
    measure = divergence(lambda m, b: m(b[0]))
    extra = {"loss": cross_entropy} if function is sensitivity else {"measure": measure}
    function(model, [batch], FORMATS[:2], **extra)
    before.check()


def test_random_numbers_of_the_loss_do_not_reach_the_outside() -> None:
    model, batch = conv_net()
    before = Trace(model)
    sensitivity(model, [batch], ["MXInt"], loss=lambda m, b: cross_entropy(m, b) * torch.rand(()))
    before.check()


def test_what_is_known_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = conv_net()
    calls = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(batch)
        return cross_entropy(model, batch)

    everything = sensitivity(model, [batch], FORMATS, loss=loss)
    some = sensitivity(model, [batch], FORMATS[:1], loss=loss, layers=["first"])
    more = sensitivity(model, [batch], FORMATS[:3], loss=loss, layers=["first"], known=some)
    assert sensitivity(model, [batch], FORMATS, loss=loss, known=more).values == everything.values
    calls.clear()
    assert sensitivity(model, [batch], FORMATS[1:], loss=loss, known=everything) == everything
    assert calls == []
    # The gradients of one layer at a time fit into memory.
    monkeypatch.setattr("lightning_adls.planning.first_order.MOST_KEPT", 1)
    assert sensitivity(model, [batch], FORMATS, loss=loss) == everything
    assert len(calls) == 3 * 12


def test_known_scores_of_something_else_are_refused() -> None:
    model, batch = conv_net()
    known = sensitivity(model, [batch], ["MXInt"], loss=cross_entropy)
    with pytest.raises(ValueError, match=r"by 'first-order', which are not those by 'divergence'"):
        measured_sensitivity(model, [rows_of(batch)[0]], ["MXInt"], known=known)
    with pytest.raises(ValueError, match="known is of other weights or batches"):
        sensitivity(model, rows_of(batch)[:2], ["MXInt"], loss=cross_entropy, known=known)
    with torch.no_grad():
        model.first.weight[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="known is of other weights or batches"):
        sensitivity(model, [batch], ["MXInt"], loss=cross_entropy, known=known)


def test_scores_come_back_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    model, batch = conv_net()
    scores = sensitivity(model, [batch], FORMATS, loss=cross_entropy)
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores
    assert len(scores.rows()) == 3 * 3 * len(FORMATS)
    assert set(scores.by_format("input")["head"]) == set(map(str, FORMATS))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"scores": 1}', '{"scores": [["a", "weight", "MXInt"]]}'],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not what .* wrote"):
        Scores.load(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Scores.load(tmp_path / "y.json")


class Twice(nn.Module):
    """A layer that is called twice, one that shares its weight, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.tied, self.unused = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.tied.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.tied(self.layer(self.layer(x).tanh()).tanh()).sin()
        return found


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_are_called_twice_tied_or_frozen(frozen: bool) -> None:
    torch.manual_seed(0)
    model = Twice().double().requires_grad_(not frozen)
    x = torch.randn(4, 6).double()
    fmt = Integer(4, 3)
    scores = sensitivity(model, [x], [{"weight": fmt}], loss=lambda m, x: m(x).sum())
    weight = model.layer.weight.detach()
    error = fmt(weight) - weight
    for name in ("layer", "tied"):

        def value(row: Tensor, step: float, name: str = name) -> Tensor:
            w = {n: weight + (n == name) * step * error for n in ("layer", "tied")}
            once = (row @ w["layer"].T).tanh() @ w["layer"].T
            return (once.tanh() @ w["tied"].T).sin().sum()

        slopes = [(value(row, 1e-5) - value(row, -1e-5)) / 2e-5 for row in x]
        expected = float(sum(slope**2 for slope in slopes) / 2 / len(x))
        assert scores.values[name, "weight", str(fmt)] == pytest.approx(expected, rel=1e-6)
    assert scores.values["unused", "weight", str(fmt)] == 0


def test_where_the_model_is_as_sure_as_the_labels_the_score_is_the_divergence() -> None:
    # Logits are 0, and both labels come up as often as the model says. So the score is that of
    # the Fisher matrix, and twice as small an error is a fourth of the divergence.
    torch.manual_seed(0)
    layer = nn.Linear(8, 2, bias=False).double()
    model = nn.Sequential(layer)
    x = torch.randn(5, 8).double()
    with torch.no_grad():
        kernel = torch.linalg.svd(x).Vh[5:]
        layer.weight.copy_(torch.randn(2, 3).double() @ kernel)
    batch = (x.repeat(2, 1), torch.tensor([0] * 5 + [1] * 5))
    formats = [{"weight": Integer(12, frac)} for frac in (5, 7, 9)]
    first = sensitivity(model, [batch], formats, loss=cross_entropy)
    real = measured_sensitivity(model, [batch], formats, measure=divergence(lambda m, b: m(b[0])))
    for cell, value in first.values.items():
        assert value == pytest.approx(real.values[cell], rel=1e-2)
        assert value > 0


def test_a_classifier_has_a_loss_and_logits_of_its_own(build: Any, texts: TextData) -> None:
    module: TextClassifier = build([])
    trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False)
    module.trainer = trainer
    batch = next(iter(texts.val_dataloader()))
    before = Trace(module)
    kinds = ("Linear", "Embedding")
    formats = ["MXInt(width=3)", "MXInt(width=8)"]
    scores = sensitivity(module, [batch], formats, kinds=kinds)
    real = measured_sensitivity(
        module, [batch], formats, kinds=kinds, layers=["*query", "model.classifier"]
    )
    before.check()
    assert module.trainer is trainer
    assert "model.bert.embeddings.word_embeddings" in scores.by_format()
    assert "model.bert.embeddings.position_embeddings" in scores.by_format()
    for name, role, _ in real.values:
        coarse, fine = (scores.values[name, role, str(NumberFormat.parse(f))] for f in formats)
        assert coarse >= fine
    assert real.values["model.classifier", "weight", "MXInt(width=3, block_size=32)"] > 0


def test_layers_that_round_are_scored_as_if_they_did_not() -> None:
    model, batch = conv_net()
    plain = sensitivity(model, [batch], ["MXInt"], loss=cross_entropy)
    Quantize({"*": "MXInt(width=2)"})(model)
    rounded = sensitivity(model, [batch], ["MXInt"], loss=cross_entropy)
    assert rounded.values == plain.values


def test_measured_losses_are_those_of_the_quantised_model() -> None:
    model, batch = conv_net()
    recipe = Quantize({"*": "MXInt(width=3)"})
    (found,) = measured(model, [recipe], [batch], loss_increase(cross_entropy))
    plain = cross_entropy(model.eval(), batch).item()
    recipe(model)
    assert found.mean == pytest.approx(cross_entropy(model, batch).item() - plain, abs=1e-5)
    assert found.standard_error > 0


def test_wrong_arguments_are_refused_before_any_work() -> None:
    model, batch = conv_net()

    def never(model: nn.Module, batch: Any) -> Tensor:
        raise AssertionError

    for arguments, message in (
        ({"formats": []}, r"formats=\[\] is not a list"),
        ({"formats": "MXInt"}, "is not a list of what a layer may be given"),
        ({"formats": [{"weigth": "MXInt"}]}, "'weigth' is no tensor of a layer"),
        ({"batches": []}, "batches has no samples"),
        ({"layers": ["third"]}, "pattern 'third' matches none of the 3 layers"),
        ({"loss": None}, r"ConvNet has no method loss\(batch\)"),
        ({"batches": [(batch[0], batch[1][:3])]}, "its samples are not known; give split="),
    ):
        given: dict[str, Any] = {"batches": [batch], "formats": ["MXInt"], "loss": never}
        with pytest.raises(ValueError, match=message):
            sensitivity(model, **{**given, **arguments})


def test_losses_that_say_nothing_are_refused() -> None:
    model, batch = conv_net()
    other, _ = conv_net()

    def without_gradients(model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            return cross_entropy(model, batch)

    losses: list[tuple[Any, str]] = [
        (lambda m, b: cross_entropy(other, b), "reaches none of the layers"),
        (lambda m, b: cross_entropy(m, b) / 0, "the loss of sample 0 is inf"),
        (lambda m, b: m(b[0]), "something else than a scalar"),
        (without_gradients, "without gradients"),
    ]
    for loss, message in losses:
        with pytest.raises(ValueError, match=message):
            sensitivity(model, [batch], ["MXInt"], loss=loss)


def test_a_model_without_logits_needs_a_function() -> None:
    model, x = net("Linear")
    with pytest.raises(ValueError, match="Net has no method logits"):
        measured_sensitivity(model, [x], ["MXInt"])
