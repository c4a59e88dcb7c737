"""Training any LightningModule for all recipes at once, within a stock Trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adls.callbacks import (
    Distillation,
    OneShot,
    Pruning,
    QuantizationAwareTraining,
    RngState,
)
from lightning_adls.errors import InputValueError
from lightning_adls.layers import LayerFormats, QuantizedLayer, formats_of
from lightning_adls.search import FormatSpace
from lightning_adls.supernet import Supernet, SupernetTraining, extract, largest, smallest
from lightning_adls.transforms.parameter_groups import learned_scales

STEPS = 5  # of an epoch
SPACE = FormatSpace.from_templates(
    ["net.0", "net.3"], {"learned": "LearnedInteger", "mx": "MXInt"}, {"width": [2, 4, 8]}
)
UNROUNDED = LayerFormats()


class Plain(L.LightningModule):
    """Any LightningModule, with dropout; notes the formats of each pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3))
        self.passes: list[tuple[str, tuple[LayerFormats, ...]]] = []

    def _note(self, stage: str) -> None:
        self.passes.append((stage, tuple(formats_of(self.net[place]) for place in (0, 3))))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self._note("train")
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._note("validate")
        hits = self.net(batch[0]).argmax(-1) == batch[1]
        self.log("val/accuracy", hits.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8 * STEPS, 6, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long())


def loader(shuffle: bool = True) -> StatefulDataLoader[Any]:
    return StatefulDataLoader(rows(), batch_size=8, shuffle=shuffle)


def fit(
    module: L.LightningModule,
    *callbacks: L.Callback,
    ckpt_path: Path | None = None,
    shuffle: bool = True,
    **arguments: Any,
) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        **{"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": False, **arguments},
        accelerator="cpu",
        callbacks=[*callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validation = DataLoader(rows(), batch_size=20)
    path = None if ckpt_path is None else str(ckpt_path)
    trainer.fit(module, loader(shuffle), validation, ckpt_path=path, weights_only=True)
    return trainer


def formats_in(recipes: Sequence[Any]) -> list[tuple[LayerFormats, ...]]:
    return [tuple(recipe.layers[layer] for layer in SPACE.layers) for recipe in recipes]


@pytest.mark.parametrize(
    "arguments", [{}, {"random": 0}, {"bounds": False, "random": 1}, {"bounds": False, "random": 3}]
)
def test_each_batch_passes_once_by_each_of_its_recipes(arguments: dict[str, Any]) -> None:
    module, callback = Plain(), SupernetTraining(SPACE, seed=3, **arguments)
    fit(module, callback)
    passes = [formats for stage, formats in module.passes if stage == "train"]
    expected = [formats_in(callback.recipes(batch)) for batch in range(2 * STEPS)]
    assert passes == [each for batch in expected for each in batch]
    if arguments.get("bounds", True):
        assert all(batch[:2] == formats_in([largest(SPACE), smallest(SPACE)]) for batch in expected)
    drawn = {each for batch in expected for each in batch[-callback.random :]}
    assert len(drawn) > 4 or not callback.random
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("evaluate", ["smallest", "largest"])
def test_evaluations_round_by_the_recipe_that_was_asked_for(evaluate: Any) -> None:
    module = Plain()
    trainer = fit(module, SupernetTraining(SPACE, evaluate=evaluate), num_sanity_val_steps=1)
    (wanted,) = formats_in([{"smallest": smallest, "largest": largest}[evaluate](SPACE)])
    seen = {formats for stage, formats in module.passes if stage == "validate"}
    assert seen == {wanted}
    assert (formats_of(module.net[0]), formats_of(module.net[3])) == wanted
    trainer.validate(module, DataLoader(rows(), batch_size=20), verbose=False)
    assert module.passes[-1] == ("validate", wanted)


def test_the_loss_is_the_mean_over_the_recipes() -> None:
    class Linear(Plain):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return {"loss": nn.functional.cross_entropy(self.net(batch[0]), batch[1])}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class KeepsBatch(L.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            self.batch = batch

    space = FormatSpace.from_templates(["net.*"], {"mx": "MXInt"}, {"width": [2, 4, 8]})
    module, keeps = Linear(), KeepsBatch()
    callback = SupernetTraining(space, random=1)
    module.net[1] = nn.Identity()
    fit(module, callback, keeps, max_epochs=-1, max_steps=1)
    # By hand: gradients of each recipe alone, from the same weights.
    gradients: list[list[Tensor]] = []
    for recipe in callback.recipes(0):
        alone = Linear()
        alone.net[1] = nn.Identity()
        recipe(alone)
        nn.functional.cross_entropy(alone.net(keeps.batch[0]), keeps.batch[1]).backward()
        gradients.append([p.grad for p in alone.parameters() if p.grad is not None])
    assert len(gradients) == 3
    for before, after, *each in zip(
        Linear().parameters(), module.parameters(), *gradients, strict=True
    ):
        torch.testing.assert_close(after, before - 0.1 * torch.stack(each).mean(0))


def test_only_scales_of_formats_that_were_drawn_are_trained() -> None:
    module = Plain()
    callback = SupernetTraining(SPACE, bounds=False, random=1)
    fit(module, callback, max_epochs=-1, max_steps=6)
    drawn = [formats_in(callback.recipes(batch))[0] for batch in range(6)]
    layers = (module.net[0], module.net[3])
    seen = 0
    for place, layer in enumerate(layers):
        assert isinstance(layer, QuantizedLayer)
        assert layer.scales_by_format is not None
        for role, formats in layer.scales_by_format.formats.items():
            for fmt in formats:
                scales, fitted = layer.scales_of(role, fmt), layer.fitted_of(role, fmt)
                assert scales is not None
                assert fitted is not None
                used = any(getattr(each[place], role) == fmt for each in drawn)
                assert bool(fitted > 0) == used
                start = fmt.initial_scales()
                assert start is not None
                assert torch.equal(scales.detach(), start) == (not used)
                seen += used
    assert 0 < seen < len(learned_scales(module))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Keep(L.Callback):
    """Keeps a checkpoint after every batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("arguments", [{"distill": True}, {"bounds": False, "random": 1}])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_fit_that_resumes_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, arguments: dict[str, Any], place: str
) -> None:
    def callbacks(folder: Path) -> list[L.Callback]:
        ours = [SupernetTraining(SPACE, **arguments), RngState()]
        return [Keep(folder), *ours] if place == "before" else [*ours, Keep(folder)]

    whole = Plain()
    (tmp_path / "again").mkdir()
    fit(whole, *callbacks(tmp_path))
    last = torch.load(tmp_path / f"{2 * STEPS}.ckpt", weights_only=True)
    for done in (2, STEPS, STEPS + 1):
        resumed = Plain()
        fit(resumed, *callbacks(tmp_path / "again"), ckpt_path=tmp_path / f"{done}.ckpt")
        assert same(resumed.state_dict(), whole.state_dict())
        other = torch.load(tmp_path / "again" / f"{2 * STEPS}.ckpt", weights_only=True)
        assert same(other["optimizer_states"], last["optimizer_states"])


def test_the_checkpoint_of_a_supernet_is_evaluated_and_taken_apart_as_it_was(
    tmp_path: Path,
) -> None:
    whole = Plain()
    fit(whole, SupernetTraining(SPACE), Keep(tmp_path))
    module = Plain()
    trainer = fit(module, SupernetTraining(SPACE), max_epochs=-1, max_steps=1)
    trainer.validate(
        module,
        DataLoader(rows(), batch_size=20),
        ckpt_path=str(tmp_path / f"{2 * STEPS}.ckpt"),
        verbose=False,
        weights_only=True,
    )
    assert same(module.state_dict(), whole.state_dict())
    for recipe in SupernetTraining(SPACE).recipes(0):
        ours, theirs = extract(module, recipe), extract(whole, recipe)
        assert same(ours.state_dict(), theirs.state_dict())
        assert torch.equal(ours.eval().net(rows()[:][0]), theirs.eval().net(rows()[:][0]))


def test_what_is_taken_out_is_trained_on_alone_by_any_callback() -> None:
    module = Plain()
    trainer = fit(module, SupernetTraining(SPACE))
    alone = extract(module, smallest(SPACE))
    assert alone._trainer is None
    assert module._trainer is trainer
    before = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    fit(alone, QuantizationAwareTraining(smallest(SPACE)))
    assert not same(before, alone.state_dict())
    (wanted,) = formats_in([smallest(SPACE)])
    assert (formats_of(alone.net[0]), formats_of(alone.net[3])) == wanted


def test_a_space_may_name_the_layers_of_a_part(tmp_path: Path) -> None:
    space = FormatSpace(("0", "3"), SPACE.classes)
    whole, module = Plain(), Plain()
    fit(whole, SupernetTraining(SPACE))
    fit(module, SupernetTraining(space, part="net"))
    assert same(module.state_dict(), whole.state_dict())
    alone = extract(module, smallest(space), "net")
    assert same(alone.state_dict(), extract(whole, smallest(SPACE)).state_dict())
    with pytest.raises(InputValueError, match="part='model' is no part of Plain"):
        fit(Plain(), SupernetTraining(space, part="model"))


def test_masks_are_pruned_while_all_recipes_are_trained() -> None:
    module = Plain()
    fit(module, SupernetTraining(SPACE), Pruning(OneShot(0.5)))
    layers = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    for layer in layers:
        assert layer.weight_mask is not None
        assert not layer.weight_mask.all()
    alone = extract(module, smallest(SPACE))
    for layer, taken in zip(layers, (alone.net[0], alone.net[3]), strict=True):
        assert torch.equal(layer.weight_mask, taken.weight_mask)  # type: ignore[arg-type]


def test_the_largest_recipe_teaches_the_others_of_the_batch() -> None:
    class Steady(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net[1] = nn.Identity()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    space = FormatSpace.from_templates(["net.*"], {"mx": "MXInt"}, {"width": [2, 4, 8]})
    module, callback = Steady(), SupernetTraining(space, random=1, distill=True, temperature=2.0)
    fit(module, callback, shuffle=False, max_epochs=-1, max_steps=1)
    x, y = rows()[:8]
    taught: Tensor | None = None
    gradients: list[list[Tensor]] = []
    for recipe in callback.recipes(0):
        alone = Steady()
        recipe(alone)
        logits = alone.net(x)
        if taught is None:
            loss = nn.functional.cross_entropy(logits, y)
            taught = logits.detach()
        else:
            p, q = (taught / 2).softmax(-1), (logits / 2).log_softmax(-1)
            loss = 4 * (p * (p.log() - q)).sum(-1).mean()
        loss.backward()
        gradients.append([p.grad for p in alone.parameters() if p.grad is not None])
    assert len(gradients) == 3
    for before, after, *each in zip(
        Steady().parameters(), module.parameters(), *gradients, strict=True
    ):
        torch.testing.assert_close(after, before - 0.1 * torch.stack(each).mean(0))


def test_a_step_without_logits_is_not_taught() -> None:
    class Hidden(Plain):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net[3](self.net[0](batch[0])), batch[1])

    with pytest.raises(InputValueError, match="does not call its network"):
        fit(Hidden(), SupernetTraining(SPACE, distill=True))
    with pytest.raises(InputValueError, match="a pass has one teacher"):
        fit(Plain(), SupernetTraining(SPACE, distill=True), Distillation())


def test_each_pass_is_distilled_where_the_fit_has_a_teacher(tmp_path: Path) -> None:
    states = []
    for order in (1, -1):
        folder = tmp_path / str(order)
        (folder / "again").mkdir(parents=True)

        def callbacks(keep: Path, order: int = order) -> list[L.Callback]:
            ours = [SupernetTraining(SPACE), Distillation(labels=0.5)]
            return [*ours[::order], RngState(), Keep(keep)]

        module, resumed = Plain(), Plain()
        fit(module, *callbacks(folder))
        fit(resumed, *callbacks(folder / "again"), ckpt_path=folder / "4.ckpt")
        assert len([stage for stage, _ in module.passes if stage == "train"]) == 4 * 2 * STEPS
        assert "training_step" not in vars(module)
        assert same(module.state_dict(), resumed.state_dict())
        states.append(module.state_dict())
    assert same(*states)
    alone = Plain()
    fit(alone, SupernetTraining(SPACE))
    assert not same(alone.state_dict(), states[0])


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


def recomputing() -> Plain:
    module = Plain()
    module.net[0].gradient_checkpointing = True  # type: ignore[assignment]
    return module


def compiled() -> Plain:
    module = Plain()
    module.net.compile(backend="eager")
    return module


def compiled_as_a_whole() -> Any:
    return torch.compile(Plain(), backend="eager")


REFUSED: dict[str, tuple[Callable[[], Plain], Callable[[], Sequence[L.Callback]], str]] = {
    "manual": (Manual, lambda: [SupernetTraining(SPACE)], "optimises by itself"),
    "recomputing": (recomputing, lambda: [SupernetTraining(SPACE)], "recomputes activations"),
    "compiled": (compiled, lambda: [SupernetTraining(SPACE)], "Sequential is compiled"),
    "compiled whole": (
        compiled_as_a_whole,
        lambda: [SupernetTraining(SPACE)],
        "Plain is compiled",
    ),
    "quantised": (
        Plain,
        lambda: [SupernetTraining(SPACE), QuantizationAwareTraining({"*": "MXInt"})],
        "callbacks has QuantizationAwareTraining as well",
    ),
    "missing": (
        Plain,
        lambda: [SupernetTraining(FormatSpace.from_templates(["no"], {"": "MXInt"}, {}))],
        "'no' matches none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_for_all_recipes_is_refused(case: str) -> None:
    make, callbacks, message = REFUSED[case]
    module = make()
    with pytest.raises(InputValueError, match=message):
        fit(module, *callbacks())
    if case != "compiled whole":  # where Lightning has put a compiled one
        assert "training_step" not in vars(module)


def test_a_module_that_optimises_by_itself_is_trained_by_one_recipe_a_batch() -> None:
    module = Manual()
    fit(module, SupernetTraining(SPACE, bounds=False, random=1))
    assert len([stage for stage, _ in module.passes if stage == "train"]) == 2 * STEPS


def test_ddp_that_expects_gradients_of_all_scales_is_refused() -> None:
    with pytest.raises(InputValueError, match="find_unused_parameters=True"):
        fit(Plain(), SupernetTraining(SPACE), strategy="ddp", devices=1)


def test_ddp_trains_for_all_recipes() -> None:
    modules = []
    for strategy in ("auto", "ddp_find_unused_parameters_true"):
        module = Plain()
        module.net[1] = nn.Identity()
        arguments: Any = {"strategy": strategy, "devices": 1, "use_distributed_sampler": False}
        fit(module, SupernetTraining(SPACE), shuffle=False, **arguments)
        modules.append(module.state_dict())
    one, other = modules
    assert same(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"random": -1}, "random=-1 is below 0"),
        ({"bounds": False, "random": 0}, "train nothing"),
        ({"bounds": False, "distill": True}, "use bounds=True"),
        ({"distill": True, "temperature": 0.0}, "temperature=0.0"),
        ({"evaluate": "none"}, "evaluate='none'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        SupernetTraining(SPACE, **arguments)


def test_a_fit_with_other_recipes_is_not_resumed(tmp_path: Path) -> None:
    fit(Plain(), SupernetTraining(SPACE), Keep(tmp_path))
    with pytest.raises(InputValueError, match="give the same arguments"):
        fit(Plain(), SupernetTraining(SPACE, seed=1), ckpt_path=tmp_path / "3.ckpt")


def test_learned_scales_are_known_to_parameter_groups() -> None:
    module = Plain()
    SupernetTraining(SPACE).prepare(module)
    scales = learned_scales(module)
    named = dict(module.named_parameters())
    assert all(named[name] is scale for name, scale in scales.items())
    widths = sum(fmt.startswith("Learned") for fmt in SPACE.classes["learned"]["weight"])
    assert len(scales) == 2 * 3 * widths
    assert widths == 3


def test_switching_makes_nothing_anew() -> None:
    module = Plain()
    callback = SupernetTraining(SPACE)
    callback.prepare(module)
    parts, parameters = list(module.modules()), list(module.parameters())
    names = list(module.state_dict())
    supernet = Supernet(module)
    for batch in range(4):
        for recipe in callback.recipes(batch):
            supernet.switch(recipe)
            assert list(module.modules()) == parts
            assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
            assert list(module.state_dict()) == names
