"""Distillation within a stock Trainer, against training loops that are written out."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import (
    Distillation,
    OneShot,
    Pruning,
    QuantizationAwareTraining,
    RngState,
)
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import LoRA, Quantize, Transform

LEARNED = {"*": {"weight": "LearnedInteger(width=3)", "input": "LearnedInteger(width=4)"}}
ROWS = 32


def net(seed: int = 1, dropout: float = 0.0, hidden: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 3))


class Plain(L.LightningModule):
    """Any LightningModule."""

    def __init__(self, network: nn.Module | None = None, rate: float = 0.1) -> None:
        super().__init__()
        self.net = net() if network is None else network
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 6, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(-1)), batch_size=8)


def fit(
    module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **arguments: Any
) -> L.Trainer:
    keeps = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    trainer = L.Trainer(
        **{"max_epochs": 2, **arguments},
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=keeps,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, batches(), ckpt_path=ckpt_path)
    return trainer


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


def written_out(
    student: nn.Sequential,
    teacher: nn.Module,
    *,
    logits: float = 1.0,
    labels: float = 1.0,
    hidden: float = 0.0,
    temperature: float = 2.0,
    accumulate: int = 1,
    autocast: bool = False,
) -> Tensor:
    """What two epochs of distillation make of the student's weights."""
    teacher = copy.deepcopy(teacher).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step, (x, y) in enumerate([*batches(), *batches()]):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            states, soft_states = student[:2](x), teacher[:2](x)  # type: ignore[index]
            ours, soft = student[2:](states), teacher[2:](soft_states)  # type: ignore[index]
            own = cross_entropy(ours, y)
        ours, soft = ours.float() / temperature, soft.float().detach() / temperature
        divergence = kl_div(
            log_softmax(ours, -1), log_softmax(soft, -1), reduction="batchmean", log_target=True
        )
        loss = labels * own + logits * temperature**2 * divergence
        if hidden:
            loss = loss + hidden * mse_loss(states.float(), soft_states.float().detach())
        (loss / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return weights(student)


TERMS: Mapping[str, Mapping[str, float]] = {
    "soft labels": {},
    "no labels": {"labels": 0.0, "temperature": 5.0},
    "hidden states alone": {"logits": 0.0, "hidden": 0.7, "labels": 0.3},
    "everything": {"logits": 0.5, "hidden": 2.0, "labels": 0.25, "temperature": 1.5},
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_that_of_the_loop_written_out(
    terms: Mapping[str, float], accumulate: int, precision: Any
) -> None:
    module, teacher = Plain(), net(seed=2)
    expected = written_out(
        copy.deepcopy(module.net),  # type: ignore[arg-type]
        teacher,
        accumulate=accumulate,
        autocast=precision == "bf16-mixed",
        **terms,
    )
    callback = Distillation(teacher, layers=["1"], **terms)  # type: ignore[arg-type]
    fit(module, callback, precision=precision, accumulate_grad_batches=accumulate)
    torch.testing.assert_close(weights(module), expected, rtol=1e-5, atol=1e-6)
    alone = Plain()
    fit(alone, precision=precision, accumulate_grad_batches=accumulate)
    assert (weights(alone) - expected).abs().max() > 1e-3


def test_the_scale_of_mixed_precision_applies_to_the_sum() -> None:
    module, teacher, seen = Plain(), net(seed=2), []

    class Seeing(L.Callback):
        def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
            seen.append(loss.item())

    trainer = fit(module, Distillation(teacher, labels=0.0), Seeing(), max_steps=1)
    assert seen == [trainer.callback_metrics["train/distillation"].item()]
    assert seen[0] > 0


class Returning(Plain):
    """Returns its loss in a dictionary, and none for the first batch."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "more": 1} if batch_idx else None


def test_a_step_may_return_a_dictionary_or_nothing() -> None:
    module, outputs = Returning(), []

    class Seeing(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, result: Any, *_: Any) -> None:
            outputs.append(result)

    fit(module, Distillation(net(seed=2)), Seeing(), max_epochs=1)
    assert outputs[0] in ({}, None)
    assert [each["more"] for each in outputs[1:]] == [1, 1, 1]


class Other(Plain):
    pass


def saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


GIVEN: Mapping[str, Callable[[nn.Module, Path], Any]] = {
    "module": lambda teacher, _: teacher,
    "LightningModule": lambda teacher, _: Other(teacher),
    "path": lambda teacher, folder: saved(teacher, folder / "teacher.pt"),
    "path of a LightningModule": lambda teacher, folder: str(
        saved(Other(teacher), folder / "teacher.pt")
    ),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("quantised", [False, True])
def test_a_teacher_is_given_in_any_form(
    given: Callable[[nn.Module, Path], Any], quantised: bool, tmp_path: Path
) -> None:
    module, teacher = Plain(), net(seed=2)
    if quantised:
        Quantize(LEARNED)(module)
    same = copy.deepcopy(module)
    fit(module, Distillation(given(copy.deepcopy(teacher), tmp_path)))
    fit(same, Distillation(teacher))
    assert torch.equal(weights(module), weights(same))


def test_a_given_teacher_is_left_as_it_is() -> None:
    teacher = net(seed=2, dropout=0.5).train()
    before = copy.deepcopy(teacher.state_dict())
    fit(Plain(), Distillation(teacher, precision="bf16"))
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_the_student_has_nothing_of_its_teacher() -> None:
    module = Plain()
    keys = list(module.state_dict())

    class Looking(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            (group,) = trainer.optimizers[0].param_groups
            assert len(group["params"]) == len(keys)
            for part in module.modules():
                assert not part._forward_hooks

    fit(module, Distillation(net(seed=2)), Looking())
    assert list(module.state_dict()) == keys
    assert "training_step" not in vars(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_fit_that_fails_leaves_the_module_as_it_was() -> None:
    class Failing(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("broken")

    module = Plain()
    with pytest.raises(RuntimeError, match="broken"):
        fit(module, Distillation(net(seed=2)), Failing())
    assert "training_step" not in vars(module)
    assert not any(part._forward_hooks for part in module.modules())


def test_the_student_drops_and_its_teacher_does_not() -> None:
    class Masks(L.Callback):
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            dropout = pl_module.net[2]
            dropout.register_forward_hook(lambda _, x, y: self.seen.append((y == 0) & (x[0] != 0)))

    plain, taught = Masks(), Masks()
    # Trained at a rate of zero: both see the same states, so the masks are those drawn.
    for masks, callbacks in ((plain, []), (taught, [Distillation(net(seed=2, dropout=0.9))])):
        torch.manual_seed(5)
        module = Plain(net(dropout=0.5), rate=0.0)
        torch.manual_seed(5)
        fit(module, *callbacks, masks)
    assert len(plain.seen) == len(taught.seen) == 2 * ROWS // 8
    assert all(map(torch.equal, plain.seen, taught.seen))
    assert all(mask.any() for mask in plain.seen)
    dropping = net(seed=2, dropout=0.9)
    with_dropout, without = Plain(), Plain()
    fit(with_dropout, Distillation(dropping.train()))
    dropping[2] = nn.Dropout(0.0)
    fit(without, Distillation(dropping))
    assert torch.equal(weights(with_dropout), weights(without))


WAYS: Mapping[str, Callable[[Distillation], tuple[Callable[[nn.Module], Any], list[Any]]]] = {
    "teacher first": lambda d: (lambda _: None, [d, QuantizationAwareTraining(LEARNED)]),
    "teacher last": lambda d: (lambda _: None, [QuantizationAwareTraining(LEARNED), d]),
    "quantised before": lambda d: (Quantize(LEARNED), [d]),
}


@pytest.mark.parametrize("pruned", [False, True])
def test_the_student_as_it_was_teaches_it_in_full_precision_whoever_quantises(pruned: bool) -> None:
    results = []
    for way in [*WAYS.values(), None]:
        module = Plain()
        plain = copy.deepcopy(module.net)
        teacher = Distillation(plain if way is None else None, hidden=0.5, layers=["0", "3"])
        prepare, callbacks = (WAYS["teacher first"] if way is None else way)(teacher)
        prepare(module)
        if pruned:
            callbacks.append(Pruning(OneShot(0.5, at=0.25)))
        fit(module, *callbacks)
        assert all(layer.enabled for layer in module.modules() if isinstance(layer, QuantizedLayer))
        results.append(weights(module))
    for other in results[1:]:
        assert torch.equal(results[0], other)
    alone = Plain()
    fit(alone, QuantizationAwareTraining(LEARNED))
    assert not torch.equal(results[0], weights(alone))


def test_bf16_halves_the_teacher_and_changes_little() -> None:
    results = []
    for precision in (None, "bf16"):
        module, callback = Plain(), Distillation(net(seed=2), precision=precision)
        fit(module, callback, RngState())
        results.append(weights(module))
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0, atol=0.02)


class Twice(Plain):
    """Calls its network on each half of a batch."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.net(batch[0])  # not trained: the teacher has no say
        halves = [self.net(half) for half in batch[0].chunk(2)]
        return cross_entropy(torch.cat(halves), batch[1])


def test_several_calls_of_a_step_count_by_their_mean() -> None:
    module, whole = Twice(), Plain()
    fit(module, Distillation(net(seed=2), hidden=1.0, layers=["*"]))
    fit(whole, Distillation(net(seed=2), hidden=1.0, layers=["*"]))
    torch.testing.assert_close(weights(module), weights(whole), rtol=1e-4, atol=1e-6)


class Parts(Plain):
    """Has several parts, and calls itself."""

    def __init__(self) -> None:
        super().__init__()
        whole = net()
        self.net, self.head = whole[:3], whole[3]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(x))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])


def test_a_module_of_several_parts_is_its_own_network() -> None:
    parts, plain = Parts(), Plain()
    fit(parts, Distillation())
    fit(plain, Distillation())
    assert torch.equal(weights(parts), weights(plain))


def test_layers_of_another_teacher_are_named_by_a_mapping() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(seed=2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            return logits

    module, expected = Plain(), Plain()
    fit(module, Distillation(Deep(), hidden=1.0, layers={"1": "inner.1"}))
    fit(expected, Distillation(net(seed=2), hidden=1.0, layers=["1"]))
    assert torch.equal(weights(module), weights(expected))


# Resuming.

TEACHERS: Mapping[str, Callable[[], Any]] = {"itself": lambda: None, "another": lambda: net(seed=2)}


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_resumed_fit_has_the_same_teacher(
    teacher: Callable[[], Any], precision: Any, tmp_path: Path
) -> None:
    def callbacks() -> list[L.Callback]:
        return [
            Distillation(teacher(), precision=precision),
            QuantizationAwareTraining(LEARNED),
            RngState(),
        ]

    whole = Plain()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(whole, *callbacks(), keep, max_epochs=3)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == list(whole.state_dict())
    # Weights of its own would be another teacher.
    resumed = Plain(net(seed=9))
    fit(resumed, *callbacks(), max_epochs=3, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_a_fit_that_goes_on_after_its_end_has_the_same_teacher(tmp_path: Path) -> None:
    whole, module = Plain(), Plain()
    fit(whole, Distillation(), max_epochs=3)
    trainer = fit(module, Distillation(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fit(module, Distillation(), max_epochs=3, ckpt_path=tmp_path / "end.ckpt")
    assert torch.equal(weights(module), weights(whole))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (lambda: net(seed=2), lambda: net(seed=3), "teacher has other weights"),
        (lambda: None, lambda: net(seed=2), "teacher=a model is not that"),
        (lambda: net(seed=2), lambda: None, "teacher=None is not that"),
    ],
)
def test_another_teacher_is_refused_by_who_resumes(
    first: Callable[[], Any], second: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    trainer = fit(Plain(), Distillation(first()), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(InputValueError, match=message):
        fit(Plain(), Distillation(second()), ckpt_path=tmp_path / "end.ckpt")


def test_a_fit_without_a_teacher_cannot_be_resumed_with_one(tmp_path: Path) -> None:
    trainer = fit(Plain(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(InputValueError, match=r"ckpt_path='.*' is of a fit without it"):
        fit(Plain(), Distillation(), ckpt_path=tmp_path / "end.ckpt")


def test_a_checkpoint_may_be_validated_by_a_trainer_with_the_callback(tmp_path: Path) -> None:
    trainer = fit(Plain(), Distillation(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")

    class Testing(Plain):
        def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("loss", cross_entropy(self(batch[0]), batch[1]))

    # Of a new callback, and of one that has another teacher from a fit before.
    used = Distillation(net(seed=2))
    fit(Testing(), used, max_epochs=1)
    for callback in (Distillation(), used):
        module = Testing(net(seed=9))
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback]
        )
        trainer.test(module, batches(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
        assert "loss" in trainer.callback_metrics


# Transformers, and what is compiled.


@pytest.mark.parametrize(
    "transforms", [[], [Quantize(LEARNED)], [Quantize({"*": "MXInt(width=4)"}), LoRA(rank=2)]]
)
def test_a_classifier_learns_from_the_layers_of_its_encoder(
    transforms: list[Transform], build: Callable[[list[Transform]], TextClassifier], texts: TextData
) -> None:
    module = build(transforms)
    callback = Distillation(hidden=1.0)
    trainer = L.Trainer(
        max_steps=3,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=texts)
    assert callback._pairs == {"bert.encoder.layer.0": "bert.encoder.layer.0"}
    assert trainer.callback_metrics["train/distillation"] > 0


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="aot_eager")
    return network


COMPILED: Mapping[str, Callable[[nn.Module], Any]] = {
    "in place": compiled_in_place,
    "wrapped": lambda network: torch.compile(network, backend="aot_eager"),
}


@pytest.mark.parametrize("compile", COMPILED.values(), ids=COMPILED)
def test_a_compiled_network_learns_what_an_eager_one_does(
    compile: Callable[[nn.Module], nn.Module],
) -> None:
    torch._dynamo.reset()
    module, eager = Plain(compile(net())), Plain()
    with torch._dynamo.config.patch(error_on_recompile=True):
        fit(module, Distillation())
    fit(eager, Distillation())
    torch.testing.assert_close(weights(module), weights(eager), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputValueError, match="'1' lies within a compiled module"):
        fit(Plain(compile(net())), Distillation(hidden=1.0, layers=["1"]))
    with pytest.raises(InputValueError, match=r"'net\.3' lies within a compiled module"):
        fit(Plain(compile(net())), Distillation(network="net.3"))


def test_layers_that_are_compiled_by_themselves_are_seen() -> None:
    torch._dynamo.reset()
    module, eager = Plain(), Plain()
    module.net[0].compile(backend="aot_eager")  # type: ignore[index]
    fit(module, Distillation(net(seed=2), hidden=1.0, layers=["0"]))
    fit(eager, Distillation(net(seed=2), hidden=1.0, layers=["0"]))
    torch.testing.assert_close(weights(module), weights(eager), rtol=1e-5, atol=1e-6)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": -1.0}, "logits=-1.0"),
        ({"labels": float("nan")}, "labels=nan"),
        ({"hidden": float("inf")}, "hidden=inf"),
        ({"logits": 0.0}, "logits=0 and hidden=0 learn nothing"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"layers": "1", "hidden": 1.0}, "layers='1' is not a list"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=f"Distillation: {message}"):
        Distillation(**arguments)


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Elsewhere(Plain):
    """Calls a part of its network alone."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.net[0](batch[0]).square().mean()  # type: ignore[index,no-any-return]


class Late(Plain):
    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        self.net = net()


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.scale * cross_entropy(self.net(batch[0]), batch[1])


REFUSED: Mapping[str, tuple[Callable[[], L.LightningModule], dict[str, Any], str]] = {
    "manual": (Manual, {}, "Manual optimises by itself"),
    "no such part": (
        Plain,
        {"network": "body"},
        "network='body' is no part of Plain, which has net",
    ),
    "not called": (Elsewhere, {}, "training_step of Elsewhere does not call"),
    "no gradient": (Frozen, {"network": "net"}, "no gradient reaches Frozen"),
    "no layers": (Plain, {"hidden": 1.0}, "layers=None finds no nn.ModuleList"),
    "no such layer": (Plain, {"hidden": 1.0, "layers": ["x*"]}, "'x\\*' matches none of the 4"),
    "not in the teacher": (
        Plain,
        {"teacher": nn.Linear(6, 3), "hidden": 1.0, "layers": ["0"]},
        "the teacher has no '0'",
    ),
    "other logits": (Plain, {"teacher": nn.Linear(6, 4)}, r"\(8, 3\) and teacher.shape=\(8, 4\)"),
    "other states": (
        Plain,
        {"teacher": net(hidden=9), "hidden": 1.0, "layers": ["0"]},
        r"\(8, 8\) and teacher.shape=\(8, 9\)",
    ),
    "no logits": (Plain, {"teacher": nn.LSTM(6, 3)}, "a tuple without logits; give logits_of"),
    "no file": (Plain, {"teacher": "nowhere.ckpt"}, "there is no file 'nowhere.ckpt'"),
    "meta": (Plain, {"teacher": net().to("meta")}, "has parameters without weights yet"),
    "lazy": (lambda: Plain(nn.LazyLinear(3)), {}, "has parameters without weights yet"),
    "late": (Late, {}, "Late has no parameters; .* call module.configure_model"),
}


@pytest.mark.parametrize(("make", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taught_is_refused_in_one_sentence(
    make: Callable[[], L.LightningModule], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputValueError, match=message) as caught:
        fit(make(), Distillation(**arguments))
    assert "\n" not in str(caught.value)


def test_a_module_that_is_compiled_with_its_step_is_refused() -> None:
    with pytest.raises(InputValueError, match="compiled with its training step"):
        fit(torch.compile(Plain(), backend="eager"), Distillation())  # type: ignore[arg-type]
