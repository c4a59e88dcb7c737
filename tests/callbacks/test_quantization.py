"""Quantising LightningModules that know nothing of it, within a stock Trainer."""

import signal
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adls.callbacks.calibration import Calibration, call_module
from lightning_adls.callbacks.quantization import QuantizationAwareTraining
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, MXInt
from lightning_adls.layers import LayerFormats, QuantizedLayer
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.calibrate import calibrate
from lightning_adls.transforms.quantize import state_for

LEARNED = {"*": "LearnedInteger(width=4)"}
STEPS_PER_EPOCH = 5

NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3)),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ),
}


class Plain(L.LightningModule):
    """Any LightningModule; notes at each batch whether it rounds."""

    def __init__(self, net: str = "mlp") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = NETS[net]()
        self.rounds: dict[str, list[bool]] = {"train": [], "validate": [], "test": []}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def _note(self, stage: str) -> None:
        self.rounds[stage].append(all(layer.enabled for layer in quantised(self)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self._note("train")
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._note("validate")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._note("test")
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def quantised(module: nn.Module) -> list[QuantizedLayer]:
    return [m for m in module.modules() if isinstance(m, QuantizedLayer)]


def samples(scale: float = 1.0) -> Dataset[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8 * STEPS_PER_EPOCH, 1, 6, 6, generator=generator)
    return TensorDataset(scale * x, (x.mean((1, 2, 3)) > 0).long())


def loader(scale: float = 1.0, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(samples(scale), batch_size=8, **arguments)


class Data(L.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train = samples() if stage == "fit" else None

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.train is not None
        return DataLoader(self.train, batch_size=8)

    def test_dataloader(self) -> DataLoader[Any]:
        return loader()


def trainer(*callbacks: L.Callback, folder: Path | None = None, **arguments: Any) -> L.Trainer:
    keep = [] if folder is None else [ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    return L.Trainer(
        **{"max_epochs": 4, "num_sanity_val_steps": 0, **arguments},
        accelerator="cpu",
        callbacks=[*callbacks, *keep],
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return bool(a == b)


QUANTISING: dict[str, Callable[[], L.Callback]] = {
    "learned": lambda: QuantizationAwareTraining(LEARNED),
    "later": lambda: QuantizationAwareTraining(LEARNED, start=0.6),
    "residual": lambda: QuantizationAwareTraining({"*": {"input": "ResidualSign"}}),
    "calibrated": lambda: Calibration({"*": "Integer"}, batches=2),
    "mixed": lambda: Calibration({"*": {"input": "LearnedInteger", "weight": "Integer(width=4)"}}),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("make", QUANTISING.values(), ids=QUANTISING)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, net: str, make: Callable[[], L.Callback]
) -> None:
    whole, callback = Plain(net), make()
    trainer(callback, folder=tmp_path).fit(whole, loader())
    last = torch.load(tmp_path / "epoch=3.ckpt", weights_only=True)
    for epoch in (0, 2):
        resumed, again = Plain(net), make()
        trainer(again, folder=tmp_path / "again").fit(
            resumed, loader(), ckpt_path=str(tmp_path / f"epoch={epoch}.ckpt"), weights_only=True
        )
        assert same_state(resumed.state_dict(), whole.state_dict())
        assert [m.formats for m in quantised(resumed)] == [m.formats for m in quantised(whole)]
        assert resumed.rounds["train"] == whole.rounds["train"][STEPS_PER_EPOCH * (epoch + 1) :]
        other = torch.load(tmp_path / "again" / "epoch=3.ckpt", weights_only=True)
        assert same_state(other["optimizer_states"], last["optimizer_states"])


@pytest.mark.parametrize("make", QUANTISING.values(), ids=QUANTISING)
def test_a_checkpoint_is_tested_as_it_was_trained(
    tmp_path: Path, make: Callable[[], L.Callback]
) -> None:
    trained, fresh = Plain("conv"), Plain("conv")
    run = trainer(make(), folder=tmp_path)
    run.fit(trained, loader())
    expected = run.test(trained, loader(), verbose=False)
    path = str(tmp_path / "epoch=3.ckpt")
    assert trainer(make()).test(fresh, loader(), path, verbose=False) == expected
    assert [m.formats for m in quantised(fresh)] == [m.formats for m in quantised(trained)]


def test_learned_scales_are_trained_by_the_optimizer_of_the_module() -> None:
    module = Plain()
    trainer(QuantizationAwareTraining(LEARNED), max_steps=1).fit(module, loader())
    first = [layer.weight_scales.clone() for layer in quantised(module) if layer.weight_scales]
    assert len(first) == 2
    trainer(QuantizationAwareTraining(LEARNED), max_steps=3).fit(module, loader())
    then = [layer.weight_scales for layer in quantised(module)]
    assert all(not torch.equal(a, b) for a, b in zip(first, then, strict=True) if b is not None)


def test_setting_up_again_keeps_scales_masks_and_layers() -> None:
    module, callback = Plain(), QuantizationAwareTraining(LEARNED)
    fitting = trainer(callback, max_epochs=1)
    fitting.fit(module, loader())
    layers = quantised(module)
    layers[0].weight_mask = torch.rand(16, 36) > 0.5
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitting.test(module, loader(), verbose=False)
    fitting.validate(module, loader(), verbose=False)
    assert quantised(module) == layers
    assert same_state(module.state_dict(), before)


@pytest.mark.parametrize(("start", "steps"), [(0.0, 0), (0.5, 10), (0.51, 11), (0.95, 19)])
def test_rounding_starts_at_its_share_of_the_steps(start: float, steps: int) -> None:
    module, callback = Plain(), QuantizationAwareTraining(LEARNED, start)
    fitting = trainer(callback, limit_val_batches=1, num_sanity_val_steps=1)
    fitting.fit(module, loader(), loader())
    assert module.rounds["train"] == [False] * steps + [True] * (20 - steps)
    last_batches = module.rounds["train"][STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH]
    assert module.rounds["validate"] == [start == 0, *last_batches]  # the sanity check first
    assert all(layer.enabled for layer in quantised(module))
    fitting.validate(module, loader(), verbose=False)
    fitting.test(module, loader(), verbose=False)
    assert all(module.rounds["validate"][5:] + module.rounds["test"])


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_layer_that_was_switched_off_stays_off(start: float) -> None:
    module = Plain()
    Quantize(LEARNED)(module)
    first, second = quantised(module)
    first.enabled = False
    callback = QuantizationAwareTraining({"*": "MXInt(width=4)"}, start)  # makes new layers
    rounds: list[list[bool]] = []

    class Noting(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            rounds.append([layer.enabled for layer in quantised(module)])

    fitting = trainer(callback, Noting(), max_epochs=2)
    for fits in (1, 2):
        fitting.fit(module, loader())
        assert [layer.enabled for layer in quantised(module)] == [False, True], fits
    fitting.test(module, loader(), verbose=False)
    assert [layer.enabled for layer in quantised(module)] == [False, True]
    late = [[False, start == 0]] * 5 + [[False, True]] * 5
    assert rounds == late
    assert quantised(module) != [first, second]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Lightning ignores SIGINT for good after a KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("error", [RuntimeError("planted"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    "hook", ["setup", "on_train_start", "on_train_batch_start", "on_validation_start"]
)
def test_a_fit_that_breaks_leaves_layers_switched_as_before(
    error: BaseException, hook: str
) -> None:
    def planted(*_: Any, **__: Any) -> None:
        raise error

    module, failing = Plain(), L.Callback()
    Quantize(LEARNED)(module)
    quantised(module)[0].enabled = False
    setattr(failing, hook, planted)
    callback = QuantizationAwareTraining(LEARNED, start=0.5)
    for callbacks in ([callback, failing], [failing, callback]):  # set up before the error, or not
        with pytest.raises((RuntimeError, SystemExit)):
            trainer(*callbacks).fit(module, loader(), loader())
        assert [layer.enabled for layer in quantised(module)] == [False, True]


def test_steps_are_counted_as_the_optimizer_takes_them() -> None:
    module = Plain()
    callback = QuantizationAwareTraining(LEARNED, start=0.5)
    trainer(callback, max_steps=4, max_epochs=-1, accumulate_grad_batches=3).fit(module, loader())
    # Two steps are half of four; the last batch of an epoch of five makes a step of its own.
    assert module.rounds["train"] == [False] * 5 + [True] * 5


def test_a_module_is_tested_quantised_without_a_fit() -> None:
    module = Plain()
    trainer(QuantizationAwareTraining(LEARNED, start=0.5)).test(module, loader(), verbose=False)
    assert module.rounds["test"] == [True] * STEPS_PER_EPOCH


def test_a_recipe_comes_as_patterns_or_as_a_file(tmp_path: Path) -> None:
    recipe = Quantize(LEARNED, kinds=("Linear",))
    recipe.save(tmp_path / "recipe.yaml")
    assert QuantizationAwareTraining(str(tmp_path / "recipe.yaml")).recipe == Quantize(
        LEARNED, kinds=["Linear"]
    )
    assert QuantizationAwareTraining(LEARNED).recipe == Quantize(LEARNED)
    assert QuantizationAwareTraining(recipe).recipe is recipe
    assert Calibration(LEARNED).template == Quantize(LEARNED)
    content = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert QuantizationAwareTraining(content).recipe == recipe  # as command lines hand it over
    layer = {"quantize": {"weight": "MXInt(width=4)"}}
    assert QuantizationAwareTraining(layer).recipe == Quantize(layer)  # a layer of that name


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        while True:
            yield torch.ones(1, 6, 6), 0


def test_a_start_that_never_comes_is_refused() -> None:
    callback = QuantizationAwareTraining(LEARNED, start=0.5)
    for data in (loader(), DataLoader(Endless(), batch_size=8)):
        with pytest.raises(ValueError, match=r"start=0\.5 is a share of a fit that has no end"):
            trainer(callback, max_epochs=-1).fit(Plain(), data)


@pytest.mark.parametrize("start", [-0.1, 1.0, 5, float("nan")])
def test_a_wrong_start_is_refused(start: float) -> None:
    with pytest.raises(ValueError, match="QuantizationAwareTraining: start="):
        QuantizationAwareTraining(LEARNED, start)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'encoder\.\*' matches none of the 2 layers"):
        trainer(QuantizationAwareTraining({"encoder.*": "MXInt"})).fit(Plain(), loader())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_calibration_is_that_of_the_first_training_batches(net: str, observer: str) -> None:
    template = Quantize({"*": "Integer"})
    callback = Calibration(template, observer, batches=2)
    module = Plain(net)
    trainer(callback, max_steps=1).fit(module, loader(3.0))
    batches = [batch[0] for batch in loader(3.0)][:2]
    assert callback.recipe == calibrate(Plain(net), template, batches, observer=observer)
    assert callback.recipe != calibrate(Plain(net), template, [b / 3 for b in batches])
    assert [m.formats for m in quantised(module)] == list(callback.recipe.layers.values())


def noisy(batch: list[tuple[Tensor, ...]]) -> list[Tensor]:
    x, y = map(torch.stack, zip(*batch, strict=True))
    return [x + 0.1 * torch.randn_like(x), y]


def test_calibrating_changes_nothing_of_the_training() -> None:
    recipe = Quantize({"*": {"bias": "LearnedInteger"}})
    plain, calibrated = Plain("conv"), Plain("conv")
    for module, callback in (
        (plain, QuantizationAwareTraining(recipe)),
        (calibrated, Calibration(recipe, batches=3)),
    ):
        torch.manual_seed(0)
        trainer(callback).fit(module, loader(shuffle=True, collate_fn=noisy))
    assert same_state(plain.state_dict(), calibrated.state_dict())


@pytest.mark.parametrize(
    "data",
    [
        lambda: loader(num_workers=1, persistent_workers=True),
        lambda: StatefulDataLoader(samples(), batch_size=8),
    ],
)
def test_the_first_epoch_has_all_its_batches(data: Callable[[], DataLoader[Any]]) -> None:
    recipe = Quantize({"*": {"bias": "LearnedInteger"}})
    plain, calibrated = Plain(), Plain()
    trainer(QuantizationAwareTraining(recipe), max_epochs=1).fit(plain, loader())
    trainer(Calibration(recipe, batches=3), max_epochs=1).fit(calibrated, data())
    assert len(calibrated.rounds["train"]) == STEPS_PER_EPOCH
    assert same_state(plain.state_dict(), calibrated.state_dict())


def test_a_run_is_calibrated_once() -> None:
    calls: list[int] = []

    def forward(module: L.LightningModule, batch: Any) -> None:
        calls.append(len(batch))
        module(batch[0])

    module, callback = Plain(), Calibration({"*": "Integer"}, batches=3, forward=forward)
    run = trainer(callback, max_epochs=1)
    run.fit(module, loader(), loader())
    run.test(module, loader(), verbose=False)
    run.fit(module, loader())
    assert calls == [2, 2, 2]
    first = callback.recipe
    run.fit(Plain(), loader(100.0))  # another module is another run
    assert len(calls) == 6
    assert callback.recipe != first


def test_a_trained_checkpoint_is_quantised_with_the_data_of_a_datamodule(tmp_path: Path) -> None:
    trained = Plain()
    plain = trainer(folder=tmp_path, max_epochs=2)
    plain.fit(trained, loader())
    path = str(tmp_path / "epoch=1.ckpt")
    callback, module = Calibration({"*": "Integer"}), Plain()
    trainer(callback).test(module, ckpt_path=path, datamodule=Data(), verbose=False)
    batches = [batch[0] for batch in loader()]
    assert callback.recipe == calibrate(trained, Quantize({"*": "Integer"}), batches)
    assert callback.recipe != calibrate(Plain(), Quantize({"*": "Integer"}), batches)
    assert all(layer.formats.weight != Integer() for layer in quantised(module))
    assert not any(p.is_inference() for p in module.parameters())


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_what_was_trained_before_does_not_change_a_calibration(
    texts: TextData, build: Callable[[list[Any]], L.LightningModule], stage: str
) -> None:
    texts.batch_size = 16  # six batches per epoch, in another order in each
    observed: list[Any] = []

    def forward(module: L.LightningModule, batch: Any) -> None:
        observed.append(batch["input_ids"].tolist())
        call_module(module, batch)

    def calibrated_on(run: L.Trainer) -> list[Any]:
        observed.clear()
        getattr(run, stage)(build([]), datamodule=texts)
        return list(observed)

    callback = Calibration({"*": "Integer"}, batches=2, forward=forward)
    expected = [batch["input_ids"].tolist() for batch in texts.calibration_batches(2)]
    assert calibrated_on(trainer(callback, max_epochs=1, limit_val_batches=1)) == expected
    # Another module, on the Trainer and the data of a fit of two epochs.
    used = trainer(callback, max_epochs=2, limit_val_batches=1)
    used.fit(build([]), datamodule=texts)
    assert calibrated_on(used) == expected


class Called(L.LightningModule):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []


class ByName(Called):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> None:
        self.calls.append({"x": x, "mask": mask})


class ByAnyName(Called):
    def forward(self, x: Tensor, **others: Tensor) -> None:
        self.calls.append({"x": x, **others})


class ByBatch(Called):
    def forward(self, batch: Any, scale: float = 1.0) -> None:
        self.calls.append(batch)


@pytest.mark.parametrize(
    ("module", "batch", "called"),
    [
        (ByName(), {"x": 1, "mask": 2, "y": 3}, {"x": 1, "mask": 2}),
        (ByName(), {"x": 1, "y": 3}, {"x": 1, "mask": None}),
        (ByName(), [1, 2], {"x": 1, "mask": None}),
        (ByAnyName(), {"x": 1, "y": 3}, {"x": 1, "y": 3}),
        (ByBatch(), {"x": 1, "y": 3}, {"x": 1, "y": 3}),
        (ByBatch(), {"x": 1, "scale": 2.0}, {"x": 1, "scale": 2.0}),
        (ByBatch(), UserDict(x=1), {"x": 1}),
        (ByBatch(), (1, 2), 1),
        (ByBatch(), 1, 1),
    ],
)
def test_a_module_is_called_with_what_it_takes_of_a_batch(
    module: Called, batch: Any, called: Any
) -> None:
    module.calls.clear()
    call_module(module, batch)
    assert module.calls == [called]


def test_a_classifier_of_texts_is_calibrated_by_its_inputs(
    texts: TextData, build: Callable[[list[Any]], L.LightningModule]
) -> None:
    callback, module = Calibration({"*": "Integer"}, batches=2), build([])
    trainer(callback).validate(module, datamodule=texts, verbose=False)
    batches = texts.calibration_batches(2)
    fresh: Any = build([])
    fresh.load_state_dict(state_for(fresh, module.state_dict()))
    assert callback.recipe == calibrate(fresh, Quantize({"*": "Integer"}), batches, fresh.logits)


def test_the_data_of_an_earlier_call_is_not_calibrated_with() -> None:
    callback = Calibration({"*": "Integer"})
    run = trainer(callback, max_epochs=1)
    run.fit(Plain(), datamodule=Data())
    with pytest.raises(InputValueError, match="no training data to calibrate with"):
        run.test(Plain(), loader(), verbose=False)


def test_formats_that_follow_the_data_stay_as_they_are() -> None:
    callback, module = Calibration({"*": "MXInt(width=4)"}), Plain()
    trainer(callback, max_steps=1).fit(module, loader())
    assert callback.recipe is not None
    assert set(callback.recipe.layers) == {"net.1", "net.3"}
    formats = LayerFormats(*[MXInt(width=4)] * 3)
    assert all(layer.formats == formats for layer in quantised(module))


def test_without_training_data_calibration_says_what_to_do(tmp_path: Path) -> None:
    callback = Calibration({"*": "Integer"})
    with pytest.raises(ValueError, match=r"no training data to calibrate with; fit first, or pass"):
        trainer(callback).test(Plain(), loader(), verbose=False)
    with pytest.raises(ValueError, match="batches is empty"):
        trainer(callback, limit_train_batches=0).fit(Plain(), loader())
    trainer(folder=tmp_path, max_epochs=1).fit(Plain(), loader())
    with pytest.raises(ValueError, match=r"ckpt_path='.*' is of a run without calibration; load"):
        trainer(callback).fit(Plain(), loader(), ckpt_path=str(tmp_path / "epoch=0.ckpt"))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Calibration: observer='max' is not a choice; use"):
        Calibration({"*": "Integer"}, "max")
    with pytest.raises(ValueError, match="Calibration: batches=0 is below 1"):
        Calibration({"*": "Integer"}, batches=0)


def test_the_state_of_a_calibration_keeps_the_recipe_whole() -> None:
    first, second = Calibration({"*": "Integer"}), Calibration({"*": "Integer"})
    first.recipe = Quantize({"*": "Integer"}, kinds=["Linear"], backend="mase")
    second.load_state_dict(first.state_dict())
    assert second.recipe == first.recipe


def test_the_content_of_a_recipe_file_may_be_strict() -> None:
    content = {"quantize": {"*": "MXInt(width=4)"}, "strict": True}
    recipe = QuantizationAwareTraining(content).recipe
    assert recipe == Quantize({"*": "MXInt(width=4)"}, strict=True)
    module = Plain()
    module.recurrent = torch.nn.GRU(2, 2)
    with pytest.raises(ValueError, match=r"strict=True, but recurrent \(GRU is of no kind\)"):
        recipe(module)
