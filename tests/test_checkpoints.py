"""One call loads what was quantised, pruned, packed or adapted; a plain load never loses it."""

import logging
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls import CompressedCheckpoints, load
from lightning_adls.callbacks import Calibration, Pruning, QuantizationAwareTraining
from lightning_adls.callbacks.pruning import OneShot
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.packed_weight import PackedWeight
from lightning_adls.models import bert, reuse_weights, sequence_classifier
from lightning_adls.transforms import Drop, LoRA, Pack, Prune, Quantize, Transform
from lightning_adls.transforms.quantize import recipe_of

pytestmark = pytest.mark.conformance

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(18).view(2, 9)
LEARNED = Quantize({"*": "LearnedInteger(width=4)"})
MASKED: list[Transform] = [Prune(0.5, activation_sparsity=0.25), LEARNED]
CHANGES: dict[str, list[Transform]] = {
    "quantised": [LEARNED],
    "pruned": [Prune(0.5)],
    "both": MASKED,
    "packed": [Pack()],
    "adapted": [LEARNED, LoRA(("*",), rank=2, alpha=3.0, trainable=())],
    "mase": [Quantize({"*": "Integer(width=6, frac_width=4)"}, backend="mase")],
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def changed(change: str) -> nn.Sequential:
    """A network that computes as after training."""
    model = network()
    for transform in CHANGES[change]:
        transform(model)
    model.train()(X)
    with torch.no_grad():
        for parameter in model.parameters():
            if not isinstance(parameter, PackedWeight):  # which is constant
                parameter.mul_(1.5).add_(0.01)
    return model.eval()


def outputs(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        output = model(x)
    return torch.as_tensor(getattr(output, "logits", output))


class Plain(L.LightningModule):
    """Trains a network on random classes."""

    def __init__(self, net: nn.Module | None = None, width: int = 32, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters({"width": width, "lr": lr})
        self.net = net or nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Ours(CompressedCheckpoints, Plain):
    """Loads what it was."""


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, torch.arange(len(X)) % 4), batch_size=8)


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **options},
    )


def fitted(path: Path, *callbacks: L.Callback, make: type[Plain] = Plain, **options: Any) -> Plain:
    """A module after a fit that wrote ``path`` at its end."""
    module, fit = make(**options), trainer(*callbacks)
    fit.fit(module, data())
    fit.save_checkpoint(path)
    return module.eval()


def write_torch(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def write_safetensors(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_folder(model: nn.Module, folder: Path) -> Path:
    write_safetensors(model, folder)
    return folder


def write_lightning(model: nn.Module, folder: Path) -> Path:
    unfitted = trainer()
    unfitted.strategy.connect(Plain(model))
    unfitted.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


WRITERS = [write_torch, write_safetensors, write_folder, write_lightning]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", WRITERS)
def test_a_plain_network_takes_everything_from_any_file(
    write: Callable[[nn.Module, Path], Path], change: str, tmp_path: Path
) -> None:
    model, plain = changed(change), network()
    path = write(model, tmp_path)
    loaded = load(plain, path)
    assert loaded is plain
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(outputs(load(changed(change), str(path))), outputs(model))


FITTING: dict[str, Callable[[], list[L.Callback]]] = {
    "learned": lambda: [QuantizationAwareTraining({"*": "LearnedInteger(width=4)"})],
    "waiting": lambda: [QuantizationAwareTraining({"*": "MXInt(width=4)"}, start=0.5)],
    "calibrated": lambda: [Calibration({"*": "Integer(width=4)"})],
    "pruned": lambda: [Pruning(OneShot(0.5))],
    "pruned-quantised": lambda: [
        Pruning(OneShot(0.5)),
        QuantizationAwareTraining({"net.0": "LearnedInteger(width=4)"}),
    ],
    "averaged": lambda: [
        QuantizationAwareTraining({"*": "LearnedInteger(width=4)"}),
        EMAWeightAveraging(decay=0.5),
    ],
}


@pytest.mark.parametrize("callbacks", FITTING.values(), ids=FITTING)
@pytest.mark.parametrize("make", [Plain, Ours])
def test_a_module_is_loaded_as_its_fit_left_it(
    make: type[Plain], callbacks: Callable[[], list[L.Callback]], tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    module = fitted(path, *callbacks(), make=make, width=24)
    for loaded in (load(make, path), load(make(width=24), path)):
        assert torch.equal(outputs(loaded), outputs(module))
    assert torch.equal(outputs(load(make(width=24).net, path)), outputs(module))
    if make is Ours:
        loaded = Ours.load_from_checkpoint(path, weights_only=True).eval()
        assert torch.equal(outputs(loaded), outputs(module))
        tested = Ours(width=24)
        trainer().test(tested, data(), ckpt_path=str(path), verbose=False, weights_only=True)
        assert torch.equal(outputs(tested.eval()), outputs(module))
    else:
        with pytest.raises(RuntimeError, match=r"Unexpected key"):
            make.load_from_checkpoint(path, weights_only=True)


def test_a_checkpoint_of_an_average_gives_the_average_within_the_fit(tmp_path: Path) -> None:
    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "within.ckpt")

    quantise = QuantizationAwareTraining({"*": "LearnedInteger(width=4)"})
    fitted(tmp_path / "end.ckpt", quantise, EMAWeightAveraging(decay=0.5), Save())
    saved = torch.load(tmp_path / "within.ckpt", weights_only=True)
    loaded = load(Plain, tmp_path / "within.ckpt")
    for key, value in saved["state_dict"].items():
        assert torch.equal(loaded.state_dict()[key], value)
    current, average = saved["current_model_state"], loaded.state_dict()
    assert not torch.equal(current["net.0.weight"], average["net.0.weight"])


@pytest.mark.parametrize("name", NumberFormat.classes)
def test_every_format_is_loaded(name: str, tmp_path: Path) -> None:
    model, plain = network(), network()
    Quantize({"*": name})(model)
    model.train()(X)
    assert torch.equal(outputs(load(plain, write_torch(model, tmp_path))), outputs(model.eval()))


def test_arguments_that_are_given_win_over_those_of_the_file(tmp_path: Path) -> None:
    module = fitted(tmp_path / "last.ckpt", *FITTING["learned"](), width=24)
    loaded = load(Plain, tmp_path / "last.ckpt", lr=0.5)
    assert dict(loaded.hparams) == {"width": 24, "lr": 0.5}
    assert torch.equal(outputs(loaded), outputs(module))
    with pytest.raises(InputValueError, match=r"^load: lr cannot be given with an instance of"):
        load(Plain(), tmp_path / "last.ckpt", lr=0.5)
    with pytest.raises(InputValueError, match=r"'net\.0\.weight' has the shape \(24, 16\)"):
        load(Plain, tmp_path / "last.ckpt", width=8)


class Settings(L.LightningModule):
    """Takes all of its arguments as one, and makes its layers late."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.net: Any = None

    def configure_model(self) -> None:
        if self.net is None:
            self.net = nn.Linear(16, self.hparams["width"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {
            key.replace("old.", "net."): value for key, value in checkpoint["state_dict"].items()
        }


def test_a_class_is_made_as_lightning_makes_it(tmp_path: Path) -> None:
    module = Settings(Namespace(width=5))
    module.configure_model()
    LEARNED(module)
    module.net(X)
    state = {key.replace("net.", "old."): v for key, v in module.state_dict().items()}
    checkpoint = {
        "state_dict": state,
        "hyper_parameters": {"width": 5},
        "hparams_name": "settings",
        "pytorch-lightning_version": L.__version__,
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded = load(Settings, tmp_path / "last.ckpt")
    assert torch.equal(outputs(loaded.net), outputs(module.net.eval()))


class Pair(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = parts


def test_a_part_is_found_by_its_names_if_there_is_one_such_part(tmp_path: Path) -> None:
    model = changed("both")
    compiled: Any = torch.compile(model)
    for whole in (
        Pair(model, nn.Linear(3, 3)),
        nn.Sequential(nn.Sequential(model)),
        AveragedModel(model),
        compiled,
        nn.ModuleDict({"module": compiled}),
    ):
        path = write_torch(whole, tmp_path)
        assert torch.equal(outputs(load(network(), path)), outputs(model))
    path = write_torch(Pair(compiled, nn.Linear(3, 3)), tmp_path)
    whole = load(Pair(network(), nn.Linear(3, 3)), path)
    assert torch.equal(outputs(whole.student), outputs(model))
    path = write_torch(Pair(model, changed("quantised")), tmp_path)
    with pytest.raises(InputValueError, match=r"the parts 'student\.' and 'teacher\.' of the"):
        load(network(), path)


def test_a_compiled_network_is_compiled_anew(tmp_path: Path) -> None:
    model = changed("both")
    path = write_torch(model, tmp_path)
    compiled: Any = torch.compile(network().eval(), backend="eager")
    plain = outputs(compiled)
    loaded = load(compiled, path)
    assert loaded is compiled
    assert torch.equal(outputs(loaded), outputs(model))
    assert not torch.equal(outputs(loaded), plain)


def test_modules_that_do_not_save_everything_load_what_there_is(tmp_path: Path) -> None:
    module = Plain(changed("quantised"))
    module.add_module("frozen", nn.Linear(2, 2))
    torch.save(
        {k: v for k, v in module.state_dict().items() if "frozen" not in k}, tmp_path / "m.pt"
    )
    fresh = Plain()
    fresh.add_module("frozen", nn.Linear(2, 2))
    with pytest.raises(InputValueError, match=r"the model has 'frozen\.weight', which"):
        load(fresh, tmp_path / "m.pt")
    fresh.strict_loading = False
    assert torch.equal(outputs(load(fresh, tmp_path / "m.pt")), outputs(module))


def write_objects(folder: Path) -> Path:
    torch.save({"state_dict": network().state_dict(), "what": network()}, folder / "objects.ckpt")
    return folder / "objects.ckpt"


def write_text(folder: Path, name: str = "text.ckpt") -> Path:
    (folder / name).write_text("no checkpoint")
    return folder / name


def write_number(folder: Path) -> Path:
    torch.save(torch.ones(3), folder / "number.pt")
    return folder / "number.pt"


def write_nested(folder: Path) -> Path:
    torch.save({"model": network().state_dict(), "epoch": 3}, folder / "nested.pt")
    return folder / "nested.pt"


def write_half(folder: Path) -> Path:
    path = write_torch(network(), folder)
    path.write_bytes(path.read_bytes()[:500])
    return path


def write_index(folder: Path) -> Path:
    index = '{"weight_map": {"0.weight": "model-1.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "no.ckpt", "there is no file '.*no.ckpt'"),
        (lambda folder: folder, "folder '.*' holds no model.safetensors; name a file"),
        (write_index, "there is no file .*model-1.safetensors"),
        (write_objects, "'.*objects.ckpt' is no checkpoint, or holds objects of Python"),
        (write_text, "'.*text.ckpt' is no checkpoint"),
        (lambda folder: write_text(folder, "x.safetensors"), "'.*x.safetensors' is no checkpoint"),
        (write_number, "'.*number.pt' holds no tensors by name"),
        (write_nested, "'.*nested.pt' holds no tensors by name"),
        (write_half, "'.*model.pt' is no checkpoint"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    write: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputValueError, match=f"^load: {message}") as caught:
        load(network(), write(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.ckpt", tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError):
            load(network(), path)


def test_what_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    path = write_torch(network(), tmp_path)
    with pytest.raises(InputValueError, match=r"^load: module_or_class='model' is neither"):
        load("model", path)  # type: ignore[call-overload]
    with pytest.raises(InputValueError, match=r"^load: Sequential cannot be made from"):
        load(nn.Sequential, path)
    with pytest.raises(InputValueError, match=r"missing a required argument: 'settings'; give it"):
        load(Settings, path)
    dropped = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    Drop(["0"])(dropped)
    with pytest.raises(InputValueError, match=r"'0\.weight', which the state dict has not; .*Drop"):
        load(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4)), write_torch(dropped, tmp_path))


def test_in_a_fit_a_plain_module_takes_the_weights_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.ckpt"
    fitted(path, QuantizationAwareTraining({"*": "MXInt(width=4)"}), make=Ours)
    module = Ours()
    with caplog.at_level(logging.WARNING, "lightning_adls"):
        trainer(max_epochs=2).fit(module, data(), ckpt_path=str(path), weights_only=True)
    assert "Ours: the checkpoint rounds net.0 (backend=standard, input=MXInt" in caplog.text
    assert recipe_of(module.state_dict()) is None
    # After the fit it is loaded as any other.
    load(module, path)
    assert recipe_of(module.state_dict()) is not None


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_another_recipe_is_refused_and_names_both(stage: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fitted(path, QuantizationAwareTraining({"*": "MXInt(width=4)"}), make=Ours)
    other = trainer(QuantizationAwareTraining({"*": "MXInt(width=6)"}), max_epochs=2)
    with pytest.raises(InputValueError, match=r"MXInt\(width=4.*MXInt\(width=6") as caught:
        getattr(other, stage)(Ours(), data(), ckpt_path=str(path), weights_only=True)
    assert "\n" not in str(caught.value)


def test_a_resumed_fit_is_the_whole_fit(tmp_path: Path) -> None:
    def callback() -> L.Callback:
        return QuantizationAwareTraining({"*": "LearnedInteger(width=4)"})

    torch.manual_seed(3)
    whole = Ours()
    start = {key: value.clone() for key, value in whole.state_dict().items()}
    trainer(callback(), max_epochs=2).fit(whole, data())
    half, resumed = Ours(), Ours()
    half.load_state_dict(start)
    first = trainer(callback())
    first.fit(half, data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(callback(), max_epochs=2).fit(
        resumed, data(), ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True
    )
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_a_classifier_trained_under_callbacks_is_loaded_by_its_own_call(
    tiny_bert: nn.Module, texts: TextData, tmp_path: Path
) -> None:
    fresh = bert(
        vocab_size=texts.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    module, path = TextClassifier(tiny_bert, [LoRA(rank=2, alpha=5.0)]), tmp_path / "last.ckpt"
    fit = trainer(
        Pruning(OneShot(0.5)),
        QuantizationAwareTraining({"*": "LearnedInteger(width=4)"}),
        max_steps=3,
    )
    fit.fit(module, datamodule=texts)
    fit.save_checkpoint(path)
    batch = next(iter(texts.val_dataloader()))
    loaded = TextClassifier.load_from_checkpoint(path, model=fresh, weights_only=True)
    with torch.no_grad():
        assert torch.equal(loaded.eval().logits(batch), module.eval().logits(batch))


def tiny() -> nn.Module:
    return bert(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=64,
        max_position_embeddings=12,
        dropout=0.0,
    )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "10KB"}], ids=["one", "several"])
def test_a_folder_of_transformers_is_loaded_and_never_silently_plain(
    change: str, shards: dict[str, str], tmp_path: Path
) -> None:
    model = tiny()
    for transform in CHANGES[change]:
        transform(model)
    model.train()(IDS)
    expected = outputs(model.eval(), IDS)
    model.save_pretrained(tmp_path, **shards)  # type: ignore[operator]
    for make in (tiny(), transformers.BertForSequenceClassification):
        assert torch.equal(outputs(load(make, tmp_path), IDS), expected)
    for refused in (bert, sequence_classifier, lambda path: reuse_weights(tiny(), path)):
        with pytest.raises(InputValueError, match=r"load\(transformers\.BertForSeq.*, folder\)"):
            refused(str(tmp_path))


def test_shared_weights_that_are_saved_once_are_loaded(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        dtype="bfloat16",
    )
    model: Any = transformers.BertForMaskedLM(config).eval()
    model.to(torch.bfloat16)
    Quantize({"*": "MXInt(width=4)"}, ["Linear", "Embedding"])(model)
    model.save_pretrained(tmp_path)
    loaded = load(transformers.BertForMaskedLM, tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(outputs(loaded, IDS), outputs(model, IDS))


@pytest.mark.long
def test_another_process_needs_the_file_alone(tmp_path: Path) -> None:
    model = changed("both")
    path = write_torch(model, tmp_path)
    torch.save({"x": X, "y": outputs(model)}, tmp_path / "expected.pt")
    code = f"""
import torch
from torch import nn
from lightning_adls import load
model = load(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), {str(path)!r})
expected = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
with torch.no_grad():
    assert torch.equal(model(expected["x"]), expected["y"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
