"""Best is a model that is delivered: rounded, and as sparse as the schedule's end."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adls.callbacks import Cubic, OneShot, Pruning, QuantizationAwareTraining
from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import Prune, Quantize, sparsity_of

STEPS = 4  # in each of four epochs
LEARNED = {"*": "LearnedInteger(width=2)"}
WITHOUT_SCALES = {"*": "MXInt(width=3)"}
X = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
TARGET = X.sum(1, keepdim=True)


class Net(L.LightningModule):
    """Any LightningModule; its score says how much worse it is where it is rounded or pruned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 1))
        self.rounded: list[bool] = []

    def loss(self) -> Tensor:
        return nn.functional.mse_loss(self.net(X), TARGET)

    def score(self) -> Tensor:
        rounds = any(layer.enabled and layer.formats.weight for layer in quantised(self))
        return self.loss() + 10 * rounds + 10 * sparsity_of(self)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.rounded.append(all(layer.enabled for layer in quantised(self)))
        loss = self.loss()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log_dict({"val/loss": self.score(), "val/gain": -self.score()})
        self.log("val/step", float(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def quantised(module: nn.Module) -> list[QuantizedLayer]:
    return [m for m in module.modules() if isinstance(m, QuantizedLayer)]


def batches(count: int = STEPS) -> DataLoader[Tensor]:
    return DataLoader(torch.zeros(count, 1))  # type: ignore[arg-type]  # a resume repeats them


class Noting(L.Callback):
    """The sparsity, whether it rounds, and the score of each validation."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, bool, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rounds = all(layer.enabled for layer in quantised(pl_module))
        loss = float(trainer.callback_metrics["val/loss"])
        self.seen.append((round(sparsity_of(pl_module), 4), rounds, loss))


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return L.Trainer(
        **{"max_epochs": 4, "num_sanity_val_steps": 1, "enable_checkpointing": keeps, **options},
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    path = options.pop("ckpt_path", None)
    fitting = trainer(*callbacks, **options)
    fitting.fit(module, batches(), batches(1), ckpt_path=path, weights_only=True)
    return fitting


def later(recipe: Any = LEARNED, start: float = 0.5) -> list[L.Callback]:
    return [QuantizationAwareTraining(recipe, start)]


# What is done, the recipe and the sparsity at the end.
MAKERS: dict[str, tuple[Callable[[], list[L.Callback]], Any, float]] = {
    "learned": (later, LEARNED, 0.0),
    "binary": (lambda: later({"*": "Binary"}, 0.6), {"*": "Binary"}, 0.0),
    "block": (lambda: later(WITHOUT_SCALES, 0.2), WITHOUT_SCALES, 0.0),
    "cubic": (lambda: [Pruning(Cubic(0.8))], None, 0.8),
    "global": (lambda: [Pruning(Cubic(0.8, end=0.5), scope="global")], None, 0.8),
    "late": (lambda: [Pruning(OneShot(0.8, at=0.7))], None, 0.8),
    "rising": (lambda: [Pruning(lambda share: 0.8 * share**2)], None, 0.8),
    "both": (lambda: [Pruning(Cubic(0.8, end=0.3)), *later(start=0.6)], LEARNED, 0.8),
    "also both": (lambda: [*later(start=0.3), Pruning(Cubic(0.8))], LEARNED, 0.8),
}
MONITORS: dict[str, dict[str, Any]] = {
    "one": {"monitor": "val/loss"},
    "max": {"monitor": "val/gain", "mode": "max"},
    "two": {"monitor": "val/loss", "save_top_k": 2},
    "more than there are": {"monitor": "val/gain", "mode": "max", "save_top_k": 9},
    "all": {"monitor": "val/loss", "save_top_k": -1},
    "weights": {"monitor": "val/loss", "save_weights_only": True},
    "a name": {"monitor": "val/loss", "filename": "best", "save_last": True},
    "after validations": {"monitor": "val/loss", "save_on_train_epoch_end": False},
    "linked": {"monitor": "val/loss", "save_last": "link"},
}


def check_files(best: ModelCheckpoint, recipe: Any, sparsity: float) -> None:
    """Each file among the best has the score that it is known by when it is evaluated."""
    assert best.best_model_path in best.best_k_models
    assert best.best_model_score == best.best_k_models[best.best_model_path]
    for path, score in best.best_k_models.items():
        module = Net()
        if recipe is not None:
            Quantize(recipe)(module)
        if sparsity:
            Prune(0.0).prepare(module)
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        assert sparsity_of(module) == sparsity
        assert module.eval().score().item() == pytest.approx(abs(float(score)), rel=1e-6)


@pytest.mark.parametrize(
    ("maker", "monitor"),
    [
        *((maker, "two") for maker in MAKERS),
        *(("learned", monitor) for monitor in MONITORS if monitor != "two"),
    ]
    + [("late", monitor) for monitor in ("max", "a name")],
)
def test_the_best_is_the_best_of_what_is_delivered(
    tmp_path: Path, maker: str, monitor: str
) -> None:
    (make, recipe, sparsity), options = MAKERS[maker], MONITORS[monitor]
    best, noting = ModelCheckpoint(tmp_path, **options), Noting()
    fit(Net(), *make(), noting, best, val_check_interval=0.5)
    scores = [loss for *end, loss in noting.seen[1:] if end == [sparsity, True]]
    assert 0 < len(scores) < 8
    assert min(loss for *_, loss in noting.seen[1:]) < min(scores)  # it could be chosen wrongly
    if options.get("save_on_train_epoch_end") is None:  # each validation is followed by a save
        wanted = sorted(scores)[: best.save_top_k if best.save_top_k > 0 else None]
        found = [abs(float(score)) for score in best.best_k_models.values()]
        assert sorted(found) == pytest.approx(wanted)
    check_files(best, recipe, sparsity)
    if options.get("filename"):
        assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_each_callback_that_compares_is_told_and_others_are_not(tmp_path: Path) -> None:
    first = ModelCheckpoint(tmp_path / "a", monitor="val/loss")
    second = ModelCheckpoint(tmp_path / "b", monitor="val/gain", mode="max", save_top_k=2)
    plain = ModelCheckpoint(tmp_path / "c", save_top_k=-1, filename="{epoch}")
    fit(Net(), *later(), first, second, plain)
    for best in (first, second):
        check_files(best, LEARNED, 0.0)
    assert sorted(path.stem for path in (tmp_path / "c").iterdir()) == [
        f"epoch={epoch}" for epoch in range(4)
    ]


def test_a_score_of_before_is_not_that_of_a_file_of_after(tmp_path: Path) -> None:
    # Saved at each step, also between the step at which rounding begins and the next validation.
    best, noting = ModelCheckpoint(tmp_path, monitor="val/loss", every_n_train_steps=1), Noting()
    fit(Net(), *later(start=0.6), noting, best)
    assert float(best.best_model_score or 0) in [s for _, rounds, s in noting.seen[1:] if rounds]
    best = ModelCheckpoint(
        tmp_path / "b", monitor="val/loss", save_on_train_epoch_end=True, save_top_k=3
    )
    noting = Noting()
    fit(Net(), *later(), noting, best, check_val_every_n_epoch=2)
    # Epoch 2 knows only the score of epoch 1.
    assert [float(score) for score in best.best_k_models.values()] == [noting.seen[-1][-1]]


class Killed(Exception):
    pass


class Kill(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def names(best: ModelCheckpoint) -> dict[str, float]:
    return {Path(path).name: float(score) for path, score in best.best_k_models.items()}


@pytest.mark.parametrize("options", [{}, {"every_n_train_steps": 1}])
@pytest.mark.parametrize("maker", ["learned", "late"])
def test_a_run_that_broke_off_chooses_what_an_uninterrupted_one_does(
    tmp_path: Path, maker: str, options: dict[str, Any]
) -> None:
    def best(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(
            tmp_path / folder, monitor="val/loss", save_top_k=2, save_last=True, **options
        )

    make = MAKERS[maker][0]
    whole = best("whole")
    fit(Net(), *make(), whole)
    # At the end of each epoch, and before and after the model becomes another.
    for step in [5, 9] if options else [4, 8, 12]:
        folder, again = f"step-{step}", best(f"step-{step}")
        with pytest.raises(Killed):
            fit(Net(), *make(), Kill(step), best(folder))
        fit(Net(), *make(), again, ckpt_path=tmp_path / folder / "last.ckpt")
        assert list(names(again).values()) == pytest.approx(list(names(whole).values()))
        assert names(again).keys() == names(whole).keys()
        assert Path(again.best_model_path).name == Path(whole.best_model_path).name


def test_a_run_that_breaks_off_early_has_a_file_to_resume_from(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/gain", mode="max")
    with pytest.raises(Killed):
        fit(Net(), *later(), Kill(7), best)
    (file,) = tmp_path.iterdir()
    assert best.best_model_path == ""
    fit(Net(), *later(), best, ckpt_path=file)
    check_files(best, LEARNED, 0.0)


@pytest.mark.parametrize(
    ("after", "recipe", "sparsity"),
    [
        (lambda: QuantizationAwareTraining(WITHOUT_SCALES), WITHOUT_SCALES, 0.0),
        (lambda: QuantizationAwareTraining(WITHOUT_SCALES, start=0.75), WITHOUT_SCALES, 0.0),
        (lambda: Pruning(OneShot(0.8)), None, 0.8),
        (lambda: Pruning(Cubic(0.8)), None, 0.8),
    ],
)
def test_what_another_model_reached_before_does_not_count(
    tmp_path: Path, after: Callable[[], L.Callback], recipe: Any, sparsity: float
) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, monitor="val/loss", save_last=True)

    before, again = best(), best()
    fit(Net(), before)
    fit(Net(), after(), again, max_epochs=6, ckpt_path=tmp_path / "last.ckpt")
    assert float(before.best_model_score or 0) < float(again.best_model_score or 0)
    assert Path(before.best_model_path).exists()  # nobody asked to remove it
    check_files(again, recipe, sparsity)


def test_a_fit_that_goes_on_with_a_finished_model_goes_on_choosing(tmp_path: Path) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, monitor="val/step", mode="min", save_last=True)

    first, again = best(), best()
    fit(Net(), Pruning(Cubic(0.8, end=0.5)), first)
    fit(Net(), Pruning(Cubic(0.8)), again, max_epochs=8, ckpt_path=tmp_path / "last.ckpt")
    assert again.best_model_path == first.best_model_path != ""


def test_outside_of_a_fit_nothing_is_forgotten(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/loss")
    module = Net()
    fitting = fit(module, *later(), Pruning(Cubic(0.8)), best)
    path, score = best.best_model_path, best.best_model_score
    (result,) = fitting.validate(module, batches(1), ckpt_path="best", verbose=False)
    assert result["val/loss"] == pytest.approx(float(score or 0))
    fitting.save_checkpoint(tmp_path / "mine.ckpt")
    assert (best.best_model_path, best.best_model_score) == (path, score)
    assert fitting.fit_loop.max_epochs == 4
    fitting.fit_loop.max_epochs = 8
    fitting.fit(module, batches(), batches(1))
    check_files(best, LEARNED, 0.8)
    assert path != best.best_model_path
    assert Path(path).exists()  # rounding began anew, and what was chosen before is left alone


def test_no_best_model_is_warned_of(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/loss", every_n_epochs=2)
    with pytest.warns(UserWarning, match="ModelCheckpoint has no best model, because it saved non"):
        fit(Net(), *later(start=0.7), best, max_epochs=3)
    assert (best.best_model_path, best.best_k_models) == ("", {})


def test_what_is_not_compared_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lightning_adls"):
        best, stopping = ModelCheckpoint(tmp_path, monitor="val/loss"), EarlyStopping("val/loss")
        fit(Net(), *later(), stopping, best)
        fit(Net(), *later())
        fit(Net(), *later(start=0.0), ModelCheckpoint(tmp_path / "b", monitor="val/loss"))
    who = "QuantizationAwareTraining: EarlyStopping and ModelCheckpoint:"
    ours = [each.getMessage() for each in caplog.records if "lightning_adls" in each.name]
    assert ours == [
        f"{who} no scores compared until rounding begins.",
        f"{who} scores compared from now, step 8.",
    ]


class Lenient(EarlyStopping):
    """A subclass, as users write them."""


@pytest.mark.parametrize(
    ("first", "stopping", "interval"), [(False, EarlyStopping, 1.0), (True, Lenient, 0.5)]
)
@pytest.mark.parametrize(
    "make", [later, lambda: [Pruning(OneShot(0.8, at=0.5))]], ids=["rounding", "pruning"]
)
def test_stopping_waits_for_the_model_that_is_delivered(
    make: Callable[[], list[L.Callback]], first: bool, stopping: Any, interval: float
) -> None:
    # A metric that gets worse with each validation stops at the second that counts.
    waiting, noting, ours = stopping("val/step", patience=1), Noting(), make()
    callbacks: Sequence[L.Callback] = [waiting, *ours] if first else [*ours, waiting]
    fit(Net(), *callbacks, noting, max_epochs=8, val_check_interval=interval)
    unlike = {(sparsity, rounds) for sparsity, rounds, _ in noting.seen[1:]}
    last = noting.seen[-1][:2]
    counted = [seen for seen in noting.seen[1:] if seen[:2] == last]
    assert len(counted) == 2
    assert len(noting.seen) - 1 > len(counted)
    assert (waiting.patience, len(unlike)) == (1, 2)


@pytest.mark.parametrize("step", [4, 16, 20])
def test_a_resumed_run_stops_when_an_uninterrupted_one_does(tmp_path: Path, step: int) -> None:
    def run(*more: L.Callback, **options: Any) -> tuple[int, EarlyStopping]:
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
        waiting = EarlyStopping("val/step", patience=2)
        fitting = fit(Net(), *later(), waiting, *more, keep, max_epochs=8, **options)
        return fitting.global_step, waiting

    whole, waited = run()
    assert whole == (8 * STEPS) // 2 + 3 * STEPS
    resumed, again = run(ckpt_path=tmp_path / f"step={step}.ckpt")
    assert (resumed, again.wait_count) == (whole, waited.wait_count)


class Stop(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize("stop", [Stop, lambda: EarlyStopping("val/loss", stopping_threshold=99.0)])
def test_a_fit_that_ends_before_rounding_begins_ends_in_a_sentence(
    tmp_path: Path, stop: Callable[[], L.Callback]
) -> None:
    module, last = Net(), ModelCheckpoint(tmp_path, monitor="val/loss", save_last=True)
    message = r"training ended after 4 steps, before rounding begins at step 8 \(start=0.5\); give"
    with pytest.raises(InputValueError, match=message):
        fit(module, *later(), stop(), last)
    assert (tmp_path / "last.ckpt").exists()
    assert last.best_model_path == ""
    assert all(layer.enabled for layer in quantised(module))
    fit(module, *later(), last, ckpt_path=tmp_path / "last.ckpt")
    check_files(last, LEARNED, 0.0)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(Killed, Killed), (KeyboardInterrupt, SystemExit), (RuntimeError, RuntimeError)],
)
def test_an_error_of_a_fit_is_not_hidden(error: type, raised: Any) -> None:
    class Failing(L.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise error

    with pytest.raises(raised):
        fit(Net(), *later(), Failing(), EarlyStopping("val/loss"))


def test_a_start_that_leaves_no_step_is_refused_but_for_a_dry_run() -> None:
    module = Net()
    with pytest.raises(InputValueError, match=r"start=0.99 leaves none of the 16 steps of the fit"):
        fit(module, *later(start=0.99))
    assert module.rounded == []
    fit(module, *later(start=0.99), fast_dev_run=True)
    assert module.rounded == [False]
    fit(module, *later(start=15 / 16))
    assert module.rounded[1:] == [False] * 15 + [True]


def test_pruning_that_ends_early_is_warned_of_and_chooses_nothing(tmp_path: Path) -> None:
    module, best = Net(), ModelCheckpoint(tmp_path, monitor="val/loss")
    message = "after 4 of 16 steps at a sparsity of 0.5222, below the 0.9 at the end"
    with pytest.warns(UserWarning, match=message):
        fit(module, Pruning(Cubic(0.9, end=1.0)), Stop(), best)
    assert sparsity_of(module) == pytest.approx(0.5222, abs=1e-4)
    assert (best.best_model_path, len(list(tmp_path.iterdir()))) == ("", 1)
