"""Pruning within a stock Trainer, and its schedules."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_adls.callbacks.pruning import Cubic, OneShot, Pruning, Schedule
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms.cost import sparsity_of
from lightning_adls.transforms.prune import Prune
from lightning_adls.transforms.walk import layers_of


class Plain(L.LightningModule):
    """Any LightningModule: knows nothing of pruning, notes its sparsity at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4))
        self.trained: list[float] = []
        self.validated: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.append(sparsity_of(self))
        return self.net(batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(sparsity_of(self))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def rows(count: int = 20) -> DataLoader[Tensor]:
    numbers = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(numbers, batch_size=2)  # type: ignore[arg-type]


def make_trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    defaults = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(
        **{**defaults, **options},
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_module() -> Plain:
    torch.manual_seed(0)
    return Plain()


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 60), st.integers(61, 100))
def test_cubic_follows_the_equation_of_zhu_and_gupta(
    step: int, updates: int, start: int, end: int
) -> None:
    s_i, s_f = 0.1, 0.9
    schedule = Cubic(s_f, s_i, start / 100, end / 100, updates)
    # The equation, in exact steps of a hundred: t0 = start, n * delta_t = end - start.
    done = min((step - start) * updates // (end - start), updates)
    expected = s_f + (s_i - s_f) * (1 - done / updates) ** 3 if step >= start else 0.0
    assert schedule(step / 100) == pytest.approx(expected)


@given(
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.integers(1, 50),
    st.lists(st.floats(0, 1), min_size=2).map(sorted),
)
def test_cubic_never_falls_and_ends_exactly(
    sparsity: float, initial: float, updates: int, shares: list[float]
) -> None:
    schedule = Cubic(sparsity, initial * sparsity, end=1.0, updates=updates)
    values = [schedule(share) for share in shares]
    assert values == sorted(values)
    assert schedule(1.0) == sparsity


def test_one_shot_prunes_at_its_share() -> None:
    schedule = OneShot(0.5, at=0.3)
    assert [schedule(step / 10) for step in range(5)] == [0, 0, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    "schedule",
    [
        OneShot(0.5),
        OneShot(0.5, at=0.45),
        OneShot(0.5, at=1.0),
        Cubic(0.5),
        Cubic(0.7, initial=0.2, start=0.3, end=1.0, updates=3),
        lambda share: share / 2,
    ],
)
@pytest.mark.parametrize("accumulated", [1, 3])
def test_each_step_is_trained_at_the_sparsity_of_its_share(
    schedule: Schedule, accumulated: int
) -> None:
    module = make_module()
    trainer = make_trainer(
        Pruning(schedule), accumulate_grad_batches=accumulated, val_check_interval=5
    )
    trainer.fit(module, rows(), rows(2))
    steps = math.ceil(10 / accumulated)
    counts = [80, 40]

    def scheduled(batch: int) -> float:
        share = batch // accumulated / steps if batch < 10 else 1.0
        return sum(round(schedule(share) * count) for count in counts) / sum(counts)

    assert module.trained == [scheduled(batch) for batch in range(10)]
    assert module.validated == [scheduled(5), scheduled(10)]
    assert sparsity_of(module) == scheduled(10)


@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("step", [7, 10])
def test_a_resumed_run_gives_bit_for_bit_the_weights_of_an_uninterrupted_one(
    step: int, method: Any, tmp_path: Path
) -> None:
    def pruning() -> Pruning:
        return Pruning(Cubic(0.8, updates=7), method, scope="global", seed=5)

    # A plain DataLoader starts its epoch anew where a run is resumed: let all batches be the same.
    data = DataLoader(torch.randn(2, 8).repeat(10, 1), batch_size=2)  # type: ignore[var-annotated,arg-type]
    whole, resumed = make_module(), make_module()
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    make_trainer(pruning(), keep, max_epochs=2, enable_checkpointing=True).fit(whole, data)
    trainer = make_trainer(pruning(), max_epochs=2)
    trainer.fit(resumed, data, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert resumed.trained == whole.trained[step:]
    assert 0 < resumed.trained[0] < resumed.trained[-1]
    for (name, value), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_the_last_checkpoint_is_pruned_to_the_end_and_can_be_tested(tmp_path: Path) -> None:
    schedule = OneShot(0.75, at=1.0)
    last = ModelCheckpoint(tmp_path, save_last=True)
    make_trainer(last, Pruning(schedule), enable_checkpointing=True).fit(make_module(), rows())
    tested = make_module()
    make_trainer(Pruning(schedule)).test(tested, rows(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert sparsity_of(tested) == 0.75


def test_training_longer_from_a_checkpoint_keeps_what_is_pruned(tmp_path: Path) -> None:
    last = ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(last, Pruning(Cubic(0.75, end=1.0)), enable_checkpointing=True)
    trainer.fit(make_module(), rows())
    longer = make_module()
    trainer = make_trainer(Pruning(Cubic(0.75, end=1.0)), max_epochs=2)
    trainer.fit(longer, rows(), ckpt_path=tmp_path / "last.ckpt")
    assert longer.trained == [0.75] * 10


def test_pruned_weights_stay_zero_and_the_optimizer_trains_the_others() -> None:
    module = make_module()
    before = [p.detach().clone() for p in module.parameters()]
    make_trainer(Pruning(OneShot(0.5))).fit(module, rows())
    layers = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    assert len(layers) == 2
    for layer, old in zip(layers, before[::2], strict=True):
        assert layer.weight_mask is not None
        assert torch.equal(layer.rounded_weight() == 0, ~layer.weight_mask)
        assert (layer.weight != old)[layer.weight_mask].all()


def test_two_callbacks_prune_different_layers_by_their_own_schedules() -> None:
    module = make_module()
    first = Pruning(OneShot(0.5, at=0.3), layers=["net.0"])
    second = Pruning(OneShot(0.25), layers=["net.2"])
    make_trainer(first, second).fit(module, rows())
    assert module.trained == [10 / 120] * 3 + [50 / 120] * 7


def test_convolutions_and_embeddings_are_pruned_where_they_are_asked_for() -> None:
    module = make_module()
    module.other = nn.ModuleList([nn.Embedding(4, 4), nn.Conv2d(2, 2, 2)])
    pruning = Pruning(OneShot(0.5), layers=["other.*"], kinds=["Embedding", "Conv2d"])
    make_trainer(pruning).fit(module, rows())
    masked = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    assert [int((~m.weight_mask).sum()) for m in masked if m.weight_mask is not None] == [8, 8]


def test_each_change_of_the_sparsity_is_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logged: list[tuple[int | None, float]] = []
    write = logger.log_metrics

    def note(metrics: dict[str, Any], step: int | None = None) -> None:
        if "sparsity" in metrics:
            logged.append((step, metrics["sparsity"]))
        write(metrics, step)

    logger.log_metrics = note  # type: ignore[method-assign]
    make_trainer(Pruning(Cubic(0.8, end=1.0, updates=2)), logger=logger).fit(make_module(), rows())
    assert logged == [(0, 0.0), (5, 0.7), (10, 0.8)]


class Unsized(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.ones(20, 8)
        raise AssertionError("trained on and on")


@pytest.mark.parametrize("options", [{"max_epochs": -1}, {"max_epochs": 2}])
def test_a_trainer_without_an_end_is_refused_before_the_first_step(options: Any) -> None:
    module = make_module()
    data = DataLoader(Unsized(), batch_size=2)
    with pytest.raises(ValueError, match="Pruning: the Trainer has no end; set max_steps"):
        make_trainer(Pruning(OneShot(0.5)), **options).fit(module, data)
    assert module.trained == []


def test_data_without_a_length_needs_max_steps_alone() -> None:
    module = make_module()
    data = DataLoader(Unsized(), batch_size=2)
    make_trainer(Pruning(OneShot(0.5, at=0.5)), max_steps=4).fit(module, data)
    assert module.trained == [0, 0, 0.5, 0.5]


def test_a_model_sparser_than_the_end_of_the_schedule_is_refused() -> None:
    module = make_module()
    Prune(0.9)(module)
    with pytest.raises(ValueError, match=r"Prune: sparsity=0.5 is below the 0.9 that net.0 has"):
        make_trainer(Pruning(OneShot(0.5))).fit(module, rows())
    assert module.trained == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneShot(1.0), "OneShot: sparsity=1.0 is not"),
        (lambda: OneShot(0.5, at=1.5), "OneShot: at=1.5 is not"),
        (lambda: Cubic(-0.1), "Cubic: sparsity=-0.1 is not"),
        (lambda: Cubic(0.5, initial=0.6), r"Cubic: initial=0.6 is not in 0..0.5"),
        (lambda: Cubic(0.5, start=0.8), "Cubic: start=0.8 and end=0.75 are not"),
        (lambda: Cubic(0.5, end=1.1), "Cubic: start=0.0 and end=1.1 are not"),
        (lambda: Cubic(0.5, updates=0), "Cubic: updates=0 is below 1"),
        (lambda: Pruning(cast(Any, 0.5)), "Pruning: schedule=0.5 cannot be called"),
        (lambda: Pruning(lambda share: share), "Prune: sparsity=1.0 is not"),
        (lambda: Pruning(OneShot(0.5), method=cast(Any, "l2")), "Prune: method='l2'"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_patterns_are_checked_before_training() -> None:
    with pytest.raises(ValueError, match="Prune: pattern 'head' matches none of the 2 layers"):
        make_trainer(Pruning(OneShot(0.5), layers=["head"])).fit(make_module(), rows())


def test_setup_alone_prunes_nothing() -> None:
    module = make_module()
    before = list(module.parameters())
    Pruning(OneShot(0.5)).setup(make_trainer(), module, "fit")
    assert sparsity_of(module) == 0
    assert all(p is q for p, q in zip(module.parameters(), before, strict=True))
    assert all(isinstance(layer, QuantizedLayer) for layer in layers_of(module).values())
