"""TextClassifier: training, logging, checkpoints."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from lightning_adls.classifier import TextClassifier, warmup_and_decay
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import LoRA, Prune, Quantize, Transform
from lightning_adls.transforms.quantize import recipe_of

Build = Callable[[list[Transform]], TextClassifier]
FOUR_BITS = Quantize({"*": {"input": "ResidualSign", "weight": "MXInt(width=4)"}})


def trained(build: Build, trainer: L.Trainer, texts: TextData) -> TextClassifier:
    torch.manual_seed(0)
    module = build([FOUR_BITS])
    trainer.fit(module, datamodule=texts)
    return module


def test_fit_logs_loss_and_accuracy_of_each_stage(
    build: Build, trainer: L.Trainer, texts: TextData
) -> None:
    module = build([])
    trainer.fit(module, datamodule=texts)
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    trainer.test(module, datamodule=texts, verbose=False)
    assert {"test/loss", "test/accuracy"} == set(trainer.callback_metrics)


def test_logged_accuracy_is_the_share_of_right_answers_over_the_whole_split(
    build: Build, trainer: L.Trainer, texts: TextData
) -> None:
    module = build([])
    trainer.validate(module, datamodule=texts, verbose=False)
    right = rows = 0
    with torch.no_grad():
        for batch in texts.val_dataloader():
            right += int((module.eval().logits(batch).argmax(-1) == batch["labels"]).sum())
            rows += len(batch["labels"])
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(right / rows)


@pytest.mark.parametrize("transforms", [[], [FOUR_BITS]], ids=["float32", "quantised"])
def test_scores_do_not_depend_on_the_size_of_evaluation_batches(
    build: Build, trainer: L.Trainer, texts: TextData, transforms: list[Transform]
) -> None:
    module, found = build(transforms), []
    for size in (7, 64):
        texts.eval_batch_size = size
        trainer.validate(module, datamodule=texts, verbose=False)
        found.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    # Sums in other orders, and other padding, change the last bits.
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_evaluation_is_in_inference_mode_and_rounds_each_weight_once(
    build: Build, trainer: L.Trainer, texts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, rounded = [], []
    plain = QuantizedLayer._round_weight

    def noting(layer: QuantizedLayer) -> Tensor:
        rounded.append(layer)
        modes.append(torch.is_inference_mode_enabled())
        return plain(layer)

    monkeypatch.setattr(QuantizedLayer, "_round_weight", noting)
    module = build([FOUR_BITS])
    texts.eval_batch_size = 16
    trainer.validate(module, datamodule=texts, verbose=False)
    assert len(texts.val_dataloader()) == 4
    assert all(modes)
    layers = [layer for layer in module.modules() if isinstance(layer, QuantizedLayer)]
    assert len(rounded) == len(set(rounded)) == len(layers) > 0


def test_quantised_training_moves_the_weights(
    build: Build, trainer: L.Trainer, texts: TextData
) -> None:
    torch.manual_seed(0)
    before = build([FOUR_BITS]).state_dict()
    after = trained(build, trainer, texts).state_dict()
    layer = "model.bert.encoder.layer.0.intermediate.dense"
    assert not torch.equal(before[f"{layer}.weight"], after[f"{layer}.weight"])
    assert not torch.equal(before[f"{layer}.input_scales"], after[f"{layer}.input_scales"])


def test_the_same_seed_gives_the_same_weights_bit_for_bit(build: Build, texts: TextData) -> None:
    states = []
    for _ in range(2):
        L.seed_everything(1, verbose=False)
        module = build([FOUR_BITS])
        options = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
        L.Trainer(max_steps=3, accelerator="cpu", **options).fit(module, datamodule=texts)  # type: ignore[arg-type]
        states.append(module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_checkpoints_load_weights_only_into_quantised_and_plain_models(
    build: Build, trainer: L.Trainer, texts: TextData, tmp_path: Path
) -> None:
    module = trained(build, trainer, texts)
    path = tmp_path / "quantised.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    for transforms in ([FOUR_BITS], []):
        other = build(list(transforms))
        trainer.validate(other, datamodule=texts, ckpt_path=str(path), verbose=False)
        for name, value in other.state_dict().items():
            assert torch.equal(value, module.state_dict()[name]), name


@pytest.mark.parametrize("change", [FOUR_BITS, Prune(0.5), LoRA()], ids=str)
def test_a_checkpoint_brings_its_transforms_along(
    build: Build, trainer: L.Trainer, texts: TextData, tmp_path: Path, change: Transform
) -> None:
    plain = build([])
    network, fresh = deepcopy(plain.model), deepcopy(plain.model)
    module, path = TextClassifier(network, [change], texts.num_classes), tmp_path / "last.ckpt"
    trainer.fit(module, datamodule=texts)
    trainer.save_checkpoint(path)
    loaded = TextClassifier.load_from_checkpoint(path, model=fresh, weights_only=True)
    batch = next(iter(texts.val_dataloader()))
    with torch.no_grad():
        assert torch.equal(loaded.eval().logits(batch), module.eval().logits(batch))
    assert loaded.hparams == module.hparams


def test_a_plain_module_becomes_the_quantised_one_of_a_checkpoint_unless_for_its_weights(
    build: Build, trainer: L.Trainer, texts: TextData, tmp_path: Path
) -> None:
    module, path = trained(build, trainer, texts), tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    loaded = TextClassifier.load_from_checkpoint(
        path, model=build([]).model, transforms=(), weights_only=True
    )
    tested = build([])
    trainer.test(tested, datamodule=texts, ckpt_path=str(path), verbose=False)
    batch = next(iter(texts.val_dataloader()))
    with torch.no_grad():
        for other in (loaded, tested):
            assert torch.equal(other.eval().logits(batch), module.eval().logits(batch))
    plain = build([])
    plain.load_weights(path)
    assert recipe_of(plain.state_dict()) is None
    other = build([Quantize({"*": "MXInt(width=5)"})])
    with pytest.raises(InputValueError, match=r"width=4.* in the state dict and .*width=5"):
        other.load_weights(path)
    other.load_weights(path, other_recipe=True)
    name = "model.classifier.weight"
    assert torch.equal(other.state_dict()[name], module.state_dict()[name])


def test_a_transform_that_cannot_be_read_back_is_named(build: Build, tmp_path: Path) -> None:
    module = build([freeze_nothing])
    path = tmp_path / "own.ckpt"
    torch.save(
        {
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            "pytorch-lightning_version": L.__version__,
        },
        path,
    )
    with pytest.raises(InputValueError, match="transforms has '<function freeze_nothing"):
        TextClassifier.load_from_checkpoint(path, model=build([]).model)


def freeze_nothing(model: nn.Module) -> None:
    """A transform of a user's own."""


def test_a_plain_checkpoint_loads_into_a_quantised_model(
    build: Build, trainer: L.Trainer, texts: TextData, tmp_path: Path
) -> None:
    plain = build([])
    trainer.fit(plain, datamodule=texts)
    path = tmp_path / "plain.ckpt"
    trainer.save_checkpoint(path)
    quantised = build([FOUR_BITS])
    quantised.load_weights(path)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, quantised.state_dict()[name]), name


def test_a_checkpoint_of_another_network_is_refused(
    build: Build, mlp: nn.Sequential, tmp_path: Path
) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": mlp.state_dict()}, path)
    with pytest.raises(ValueError, match=r"other\.ckpt does not fit the model"):
        build([]).load_weights(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="does not fit the model"):
        build([]).load_weights(path)


def test_fit_resumes_from_a_checkpoint(
    build: Build, trainer: L.Trainer, texts: TextData, tmp_path: Path
) -> None:
    trained(build, trainer, texts)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    longer = L.Trainer(max_steps=5, accelerator="cpu", **options)  # type: ignore[arg-type]
    longer.fit(build([FOUR_BITS]), datamodule=texts, ckpt_path=str(tmp_path / "last.ckpt"))
    assert longer.global_step == 5


def test_predictions_name_their_rows(build: Build, trainer: L.Trainer, texts: TextData) -> None:
    batches = trainer.predict(build([]), datamodule=texts)
    assert batches is not None
    assert len(torch.cat([batch["index"] for batch in batches]).unique()) == 64  # type: ignore[call-overload]
    for batch in batches:
        assert torch.equal(batch["probabilities"].argmax(-1), batch["class"])  # type: ignore[call-overload]


def test_bfloat16_training_keeps_float32_parameters(build: Build, texts: TextData) -> None:
    module = build([FOUR_BITS])
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    L.Trainer(
        max_steps=2,
        accelerator="cpu",
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        **options,  # type: ignore[arg-type]
    ).fit(module, datamodule=texts)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in module.parameters())


def test_biases_and_norms_do_not_decay(build: Build, trainer: L.Trainer, texts: TextData) -> None:
    module = build([])
    trainer.fit(module, datamodule=texts)
    decayed, rest = trainer.optimizers[0].param_groups
    assert decayed["weight_decay"] == 0.01
    assert rest["weight_decay"] == 0
    assert {p.dim() for p in rest["params"]} == {1}
    assert sum(len(group["params"]) for group in (decayed, rest)) == len(list(module.parameters()))


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    factor = warmup_and_decay(steps=100, warmup=0.1)
    factors = [factor(step) for step in range(101)]
    assert factors[9] == 1.0
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)
    assert factors[0] > 0
    assert factors[100] == 0


class Named(nn.Module):
    """Logits by a single layer on the tokens; notes the names that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 2)
        self.got: set[str] = set()

    def classify(self, **inputs: Tensor) -> SequenceClassifierOutput:
        self.got = set(inputs)
        return SequenceClassifierOutput(logits=self.words(inputs["input_ids"]).mean(1))


class OnlyTokens(Named):
    def forward(self, input_ids: Tensor) -> SequenceClassifierOutput:
        return self.classify(input_ids=input_ids)


class WithLabels(Named):
    """As the networks of Transformers, which compute a loss from labels."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        assert labels is None
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs["token_type_ids"] = token_type_ids
        return self.classify(**{k: v for k, v in inputs.items() if v is not None})


class AnyInputs(Named):
    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        return self.classify(**inputs)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (OnlyTokens, {"input_ids"}),
        (WithLabels, {"input_ids", "attention_mask", "token_type_ids"}),
        (AnyInputs, {"input_ids", "attention_mask", "token_type_ids", "more"}),
    ],
)
def test_a_network_gets_the_entries_that_its_forward_has_names_for(
    network: type[Named], names: set[str]
) -> None:
    model, ones = network(), torch.ones(3, 8, dtype=torch.int64)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "more"), ones)
    batch |= dict.fromkeys(("labels", "index"), torch.zeros(3, dtype=torch.int64))
    module = TextClassifier(model)
    assert module.logits(batch).shape == (3, 2)
    assert model.got == names
    module(ones, ones, ones)
    assert model.got == names - {"more"}
    module(ones)
    assert model.got == {"input_ids"}


@pytest.mark.parametrize("network", [OnlyTokens, WithLabels, AnyInputs])
def test_a_network_of_any_inputs_is_trained_and_judged(
    network: type[Named], trainer: L.Trainer, texts: TextData
) -> None:
    module = TextClassifier(network())
    trainer.fit(module, datamodule=texts)
    trainer.test(module, datamodule=texts, verbose=False)
    assert trainer.predict(module, datamodule=texts)


def test_inputs_are_taken_by_name(build: Build, texts: TextData) -> None:
    module, batch = build([]).eval(), next(iter(texts.val_dataloader()))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = module.logits(batch)
        assert torch.equal(module(ids, mask), expected)
        assert torch.equal(module(attention_mask=mask, input_ids=ids), expected)
        assert not torch.equal(module(ids), expected)  # padding is attended to


def test_a_classifier_is_exported(build: Build, texts: TextData) -> None:
    module, batch = build([FOUR_BITS]).eval(), next(iter(texts.val_dataloader()))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    exported = torch.export.export(module, (), inputs)
    with torch.no_grad():
        assert torch.allclose(exported.module()(**inputs), module.logits(batch), atol=1e-6)


def test_lightnings_summary_shows_sizes_for_an_example(build: Build) -> None:
    module = build([])
    keys, hparams = set(module.state_dict()), dict(module.hparams)
    ids = torch.ones(2, 8, dtype=torch.int64)
    module.example_input_array = {"input_ids": ids, "attention_mask": ids}
    summary = ModelSummary(module, max_depth=-1)
    sizes = dict(zip(summary.layer_names, summary.out_sizes, strict=True))
    assert sizes["model.classifier"] == [2, 2]
    assert (set(module.state_dict()), dict(module.hparams)) == (keys, hparams)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 is not above 0"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0 is below 0"),
        ({"warmup": 1.5}, r"warmup=1\.5 is not in 0\.\.1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextClassifier(nn.Linear(2, 2), **arguments)  # type: ignore[arg-type]


def test_a_trainer_without_an_end_is_refused(build: Build, texts: TextData) -> None:
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    endless = L.Trainer(max_steps=-1, max_epochs=-1, accelerator="cpu", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the Trainer has no end"):
        endless.fit(build([]), datamodule=texts)


def test_a_checkpoint_that_is_not_there_or_cannot_be_read_is_the_users_to_mend(
    build: Build, tmp_path: Path
) -> None:
    for path, message in ((tmp_path / "no.ckpt", "there is no file"), (tmp_path, "cannot be read")):
        with pytest.raises(InputValueError, match=f"TextClassifier: .*{message}"):
            build([]).load_weights(path)
    with pytest.raises(FileNotFoundError):
        build([]).load_weights(tmp_path / "no.ckpt")
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(InputValueError, match="does not fit the model"):
        build([]).load_weights(tmp_path / "empty.ckpt")
