"""Quantisation in stages: what changes when one begins, what stays, and how a fit is resumed."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls import CompressedCheckpoints, parameter_groups
from lightning_adls.callbacks import (
    Distillation,
    OneShot,
    Pruning,
    RngState,
    StagedQuantization,
)
from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms.parameter_groups import learned_scales
from lightning_adls.transforms.quantize import recipe_of

BINARY = {"weight": "Binary(scale=per_channel)", "input": "ElasticBinary"}
STAGES: Mapping[str, dict[float, Any]] = {
    "same scales": {
        0.0: {"*": "LearnedInteger(width=8)"},
        0.25: {"*": "LearnedInteger(width=4)"},
        0.5: {"*": "LearnedInteger(width=2)"},
    },
    "down to one bit": {
        0.0: {"*": {"weight": "LearnedInteger(width=8)", "input": "LearnedInteger(width=8)"}},
        0.3: {"*": {"weight": "LearnedInteger(width=2)", "input": "LearnedInteger(width=2)"}},
        0.6: {"*": BINARY},
    },
    "scales that come": {
        0.0: {"*": "MXInt(width=8)"},
        0.5: {"*": {"weight": "LearnedInteger(width=3)", "input": "ResidualSign"}},
    },
}
each = pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
STEPS_PER_EPOCH = 4


class Plain(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(parameter_groups(self, 0.01), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class Compressed(Plain, CompressedCheckpoints):
    """Looks at a checkpoint by itself before it is loaded."""


def loader() -> DataLoader[Any]:
    x = torch.randn(8 * STEPS_PER_EPOCH, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(-1)), batch_size=8)


def trainer(*callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    return L.Trainer(
        **{"max_epochs": 5, "num_sanity_val_steps": 0, **arguments},
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def quantised(module: nn.Module) -> dict[str, QuantizedLayer]:
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLayer)}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Looking(L.Callback):
    """Checks all that has to hold in each step; comes after what is looked at."""

    def __init__(self, stages: Mapping[float, Any]) -> None:
        self.stages = stages
        self.begun: list[int] = []
        self.weights: list[nn.Parameter] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        due = max(s for s in self.stages if s * trainer.max_steps <= trainer.global_step)
        callback = StagedQuantization({0.0: self.stages[due]})
        recipe = callback.recipes[0]
        found = recipe_of(module.state_dict())
        assert found is not None
        assert found.match(module) == recipe.match(module)
        (optimizer,) = trainer.optimizers
        expected = parameter_groups(module, 0.01)
        for group, other in zip(optimizer.param_groups, expected, strict=True):
            assert list(map(id, group["params"])) == list(map(id, other["params"]))
        weights = [p for n, p in module.named_parameters() if n.endswith(("weight", "bias"))]
        self.weights = self.weights or weights
        assert list(map(id, weights)) == list(map(id, self.weights))
        scales = learned_scales(module).values()
        new = [s for s in scales if s not in optimizer.state]
        if len(new) > 0:
            assert len(new) == len(scales), "all formats change"
            self.begun.append(trainer.global_step)
        # Weights go on: as many steps as there were.
        if trainer.global_step:
            assert {int(optimizer.state[w]["step"]) for w in weights} == {trainer.global_step}
        assert len(optimizer.state) == len(weights) * bool(trainer.global_step) + len(scales) - len(
            new
        )

    def on_before_backward(self, trainer: L.Trainer, module: Any, loss: Tensor) -> None:
        if trainer.global_step not in self.begun:
            return
        for layer in quantised(module).values():
            fmt, scales = layer.formats.weight, layer.scales_of("weight")
            assert fmt is not None
            if scales is not None:
                fitted = fmt.fit_scales(layer.weight)
                assert torch.equal(scales, fmt.initial_scales() if fitted is None else fitted)  # type: ignore[arg-type]


@each
def test_a_stage_changes_formats_and_their_scales_and_nothing_else(
    stages: dict[float, Any],
) -> None:
    looking, module = Looking(stages), Plain()
    fit = trainer(StagedQuantization(stages), looking, max_steps=20)
    fit.fit(module, loader())
    starts = [share for share in sorted(stages) if "MXInt" not in str(stages[share])]
    assert looking.begun == [int(share * 20) for share in starts]
    last = StagedQuantization({0.0: stages[max(stages)]}).recipes[0]
    found = recipe_of(module.state_dict())
    assert found is not None
    assert found.match(module) == last.match(module)
    assert "on_load_checkpoint" not in vars(module)
    # The schedule went on: five epochs, each at half the rate of the one before.
    assert fit.optimizers[0].param_groups[1]["lr"] == pytest.approx(1e-2 / 2**5)


@each
@pytest.mark.parametrize("module", [Plain, Compressed])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_resumed_fit_repeats_the_uninterrupted_one(
    stages: dict[float, Any], module: type[Plain], epoch: int, tmp_path: Path
) -> None:
    def callbacks() -> list[L.Callback]:
        return [StagedQuantization(stages), Distillation(), Pruning(OneShot(0.25)), RngState()]

    whole, resumed = module(), module()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(*callbacks(), keep).fit(whole, loader())
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    again = trainer(*callbacks())
    again.fit(resumed, loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
    assert same(dict(whole.state_dict()), dict(resumed.state_dict()))


def test_outside_of_a_fit_formats_are_those_of_the_checkpoint_or_the_last(tmp_path: Path) -> None:
    stages = STAGES["down to one bit"]
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(StagedQuantization(stages), keep).fit(Plain(), loader())
    for path, stage in [(None, 0.6), (tmp_path / "epoch=0.ckpt", 0.0)]:
        for module in (Plain(), Compressed()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # nothing was fitted, if untrained
                trainer(StagedQuantization(stages)).test(
                    module, loader(), ckpt_path=path, verbose=False
                )
            expected = StagedQuantization({0.0: stages[stage]}).recipes[0]
            for name, formats in expected.match(module).items():
                assert quantised(module)[name].formats == formats


def test_models_of_earlier_stages_are_not_compared(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, monitor="val/loss", save_top_k=-1, filename="{epoch}")
    module = Plain()
    trainer(StagedQuantization(STAGES["same scales"]), keep).fit(module, loader(), loader())
    scores = {Path(path).stem: score for path, score in keep.best_k_models.items()}
    assert set(scores) == {"epoch=2", "epoch=3", "epoch=4"}


def test_binary_weights_and_activations_learn_from_the_network_in_full_precision() -> None:
    generator = torch.Generator().manual_seed(4)
    signs = torch.randint(0, 2, (512, 12), generator=generator).float() * 2 - 1
    y = (signs[:, :5].sum(1) > 0).long()
    x = signs + 0.3 * torch.randn(512, 12, generator=generator)
    rows = DataLoader(TensorDataset(x[:384], y[:384]), batch_size=32)

    class Net(Plain):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    module = Net()
    trainer(max_epochs=5).fit(module, rows)
    weight = {"weight": "Binary(scale=per_channel, ste=clipped)"}
    stages: dict[float, Any] = {
        0.0: {"*": "LearnedInteger(width=8)"},
        0.2: {"*": "LearnedInteger(width=4)"},
        0.4: {"*": "LearnedInteger(width=2)"},
        0.6: {
            "net.0": {**weight, "input": "ElasticBinary"},
            "net.2": {**weight, "input": "ElasticBinary(signed=False)"},
        },
    }
    trainer(StagedQuantization(stages), Distillation(), max_epochs=20).fit(module, rows)
    first, last = quantised(module)["net.0"], quantised(module)["net.2"]
    assert first.rounded_input(x).unique().numel() == 2
    assert last.rounded_weight().abs().unique(dim=1).shape == (2, 1)
    hits = (module.eval().net(x[384:]).argmax(-1) == y[384:]).float().mean()
    assert hits > 0.9, "of rows that were not trained on, half of which a guess would hit"


REFUSED: Mapping[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no end": (lambda: STAGES["same scales"], {"max_epochs": -1}, "a fit that has no end"),
    "no step": (
        lambda: {0.0: {"*": "Integer"}, 0.99: {"*": "Binary"}},
        {},
        "the stage at 0.99 leaves none of the 20 steps",
    ),
    "ended before": (
        lambda: {0.0: {"*": "Integer"}, 0.5: {"*": "Binary"}},
        {"callbacks": "stop"},
        "training ended after 4 steps, before the last stage begins at step 10",
    ),
    "averages": (
        lambda: STAGES["same scales"],
        {"callbacks": "average"},
        "callbacks has EMAWeightAveraging",
    ),
}


class Stop(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize(("stages", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_in_stages_is_refused_in_one_sentence(
    stages: Callable[[], Any], arguments: dict[str, Any], message: str
) -> None:
    others: dict[Any, list[L.Callback]] = {"stop": [Stop()], "average": [EMAWeightAveraging()]}
    arguments = dict(arguments)
    more = others.get(arguments.pop("callbacks", None), [])
    with pytest.raises(InputValueError, match=f"StagedQuantization: .*{message}"):
        trainer(StagedQuantization(stages()), *more, **arguments).fit(Plain(), loader())


@pytest.mark.parametrize("shares", [(), (0.1, 0.5), (0.0, 1.0), (-0.1, 0.0)])
def test_shares_out_of_range_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputValueError, match="StagedQuantization: stages begins at"):
        StagedQuantization({share: {"*": "Integer"} for share in shares})


@pytest.mark.parametrize(("name", "fits"), [("same scales", True), ("down to one bit", False)])
def test_several_processes_need_the_same_scales_in_each_stage(name: str, fits: bool) -> None:
    callback, module = StagedQuantization(STAGES[name]), Plain()
    if fits:
        callback._refuse_other_scales(module)
    else:
        with pytest.raises(InputValueError, match=r"'net\.0\..*' has not as many learned scales"):
            callback._refuse_other_scales(module)
