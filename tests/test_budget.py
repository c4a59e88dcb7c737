"""Budget: all of its steps are trained, and it is validated where it says."""

import gc
import weakref
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adls import budget as budget_module
from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.data import TextData
from lightning_adls.data.batching import LengthBatches
from lightning_adls.devices import DDPFromHere
from lightning_adls.errors import InputValueError


class Noting(L.LightningModule):
    """Notes after how many steps it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.validated: list[int] = []

    def training_step(self, batch: Tensor) -> Tensor:
        return (self.weight * batch).sum()

    def validation_step(self, batch: Tensor) -> None:
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rows(count: int) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(torch.zeros(count, 1), batch_size=1)  # type: ignore[arg-type]


def fit(budget: Budget, steps_per_epoch: int) -> tuple[int, list[int]]:
    """Train; how many steps it took, and after which of them it was validated."""
    module, trainer = Noting(), budget.trainer(steps_per_epoch)
    trainer.fit(module, rows(steps_per_epoch), rows(1))
    assert trainer.max_steps == trainer.global_step
    return trainer.global_step, module.validated


@pytest.mark.parametrize("epochs", [0.3, 0.5, 1, 2, 3])
@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3, 5, 7])
def test_every_step_is_trained_and_the_reports_are_spread_evenly(
    steps_per_epoch: int, epochs: float
) -> None:
    total = max(1, int(epochs * steps_per_epoch))
    for reports in (1, 2, 3, 4, 7):
        steps, validated = fit(Budget(epochs, reports, accelerator="cpu"), steps_per_epoch)
        assert steps == total
        places = [round(i * total / reports) for i in range(1, reports + 1)]
        assert validated == sorted({place for place in places if place})
        assert len(validated) == min(reports, total)
        assert validated[-1] == total


@pytest.mark.parametrize("reports", [1, 2, 4, 8])
def test_reports_that_divide_the_steps_are_at_lightnings_interval(reports: int) -> None:
    steps, validated = fit(Budget(2, reports, accelerator="cpu"), 4)
    module = Noting()
    plain = L.Trainer(
        max_steps=8,
        val_check_interval=8 // reports,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    plain.fit(module, rows(4), rows(1))
    assert (steps, validated) == (plain.global_step, module.validated)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_budget_reports_where_the_uninterrupted_one_does(
    tmp_path: Path, stop: int
) -> None:
    budget, keep = Budget(1, 4, accelerator="cpu"), tmp_path / "stopped.ckpt"

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == stop:
                trainer.save_checkpoint(keep)

    whole, resumed = Noting(), Noting()
    budget.trainer(7, callbacks=[Keep()]).fit(whole, rows(7), rows(1))
    budget.trainer(7).fit(resumed, rows(7), rows(1), ckpt_path=keep)
    assert whole.validated == [2, 4, 5, 7]
    assert resumed.validated == [place for place in whole.validated if place > stop]


def test_a_budget_takes_any_logger(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    assert Budget(accelerator="cpu").trainer(4, logger).logger is logger


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs=0 is neither"),
        ({"epochs": 1.5}, r"epochs=1\.5 is neither"),
        ({"reports": 0}, "reports=0 is below 1"),
        ({"precision": "fp8"}, "precision='fp8' is none of"),
        ({"gradient_clip": 0.0}, r"gradient_clip=0\.0 is not above 0"),
        ({"devices": 0}, "devices=0 is below 1; 'auto' is all"),
        ({"devices": -1}, "devices=-1 is below 1; 'auto' is all"),
        ({"devices": "all"}, "devices='all' is neither a number, nor a list"),
        ({"devices": []}, r"devices=\[\] is empty"),
        ({"devices": [1, 1]}, r"devices=\[1, 1\] is empty or names a GPU twice"),
        ({"num_nodes": 0}, "num_nodes=0 is below 1"),
        ({"strategy": "dpd"}, r"strategy='dpd' is unknown; did you mean ddp\?"),
    ],
)
def test_a_budget_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Budget: {message}"):
        Budget(**arguments)


@pytest.mark.parametrize("ask", [Budget.check, lambda budget: budget.trainer(10)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accelerator": "abacus"}, "accelerator='abacus'.* cannot be made: .*invalid accelerator"),
        ({"accelerator": ""}, "accelerator='',.* cannot be made"),
        ({"accelerator": "tpu"}, "accelerator='tpu'.* cannot be made"),
        ({"devices": 2048}, "devices=2048 are more processes than this machine has cores"),
        ({"devices": [0, 1]}, r"devices=\(0, 1\).* cannot be made: .*should be an int > 0"),
        ({"strategy": "fsdp"}, "strategy='fsdp' cannot be made: .*requires a GPU"),
        ({"num_nodes": 2}, "num_nodes=2 needs a process on each machine that knows its place"),
        # Lightning would take another precision, with a warning.
        (
            {"accelerator": "cpu", "precision": "16-mixed"},
            "precision='16-mixed' is not to be had with accelerator='cpu' here; use 'bf16-mixed'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:You passed")
def test_what_the_machine_cannot_give_is_refused_before_any_work(
    ask: Callable[[Budget], object], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputValueError, match=f"^Budget: .*{message}") as refusal:
        ask(Budget(**{"accelerator": "cpu", **arguments}))
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_said_in_plain_words(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))
    with pytest.raises(InputValueError, match="there is no GPU here; use cpu or auto"):
        Budget(accelerator=accelerator).check()


def test_a_module_is_gone_with_its_last_name_once_its_trainer_lets_go_of_it() -> None:
    module: L.LightningModule | None = Noting()
    assert module is not None
    weight = weakref.ref(module.weight)
    trainer = Budget(accelerator="cpu").trainer(2)
    ones: Any = torch.ones(2, 1)  # a data set to torch's loader, not to its types
    trainer.fit(module, DataLoader(ones), DataLoader(ones[:1]))
    gc.collect()
    gc.disable()
    try:
        release(trainer)
        assert weight() is not None
        module = None
        assert weight() is None
    finally:
        gc.enable()
    assert trainer.global_step == 2


class Ones(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        ones: Any = torch.ones(2, 1)
        return DataLoader(ones)

    val_dataloader = train_dataloader


def test_data_do_not_take_a_trainer_along_that_let_go_of_them() -> None:
    data = Ones()
    trainer = Budget(accelerator="cpu").trainer(2)
    trainer.fit(Noting(), datamodule=data)
    assert data.trainer is trainer
    release(trainer)
    assert data.trainer is None


def test_what_the_machine_can_give_passes_the_check() -> None:
    for precision in ("32-true", "bf16-mixed"):
        Budget(accelerator="cpu", precision=precision).check()


@pytest.mark.parametrize(
    ("accelerator", "has_gpu", "precision"),
    [
        *(("auto", True, "bf16-mixed"), ("gpu", True, "bf16-mixed"), ("cpu", True, "32-true")),
        ("auto", False, "32-true"),
    ],
)
def test_the_automatic_precision_is_that_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, has_gpu: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert Budget(precision="auto", accelerator=accelerator).precision == precision
    assert Budget(accelerator=accelerator).precision == "32-true", "formats are compared in it"


@pytest.mark.parametrize("epochs", [0.3, 1, 3])
def test_devices_share_the_steps_of_an_epoch(
    epochs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "cores", lambda: 8)
    for rows, batch, devices in product((1, 7, 64, 65), (1, 8), (1, 2, 3)):
        budget = Budget(epochs, accelerator="cpu", devices=devices)
        steps = len(LengthBatches(torch.ones(rows).long(), batch, shuffle=True))
        shared = LengthBatches(torch.ones(rows).long(), batch, shuffle=True, num_replicas=devices)
        assert budget.trainer(steps).max_steps == max(1, int(epochs * len(shared)))


def test_batches_are_counted_for_one_device_whatever_trained_before(tmp_path: Path) -> None:
    data = TextData(limit_train=40, batch_size=8, cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    shared: Any = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": 2, "rank": 0}, current_epoch=0
    )
    data.trainer = shared
    assert batches_of(data) == 5
    assert data.trainer is shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "ddp_spawn", "devices": 2}, "weights alone come back; use 'ddp'"),
        ({"strategy": "ddp_notebook", "devices": 2}, "weights alone come back; use 'ddp'"),
        ({"num_nodes": 2}, "num_nodes=2 is not for labs and searches"),
    ],
)
def test_what_trains_once_is_refused_where_much_is_trained(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "cores", lambda: 8)
    with pytest.raises(InputValueError, match=message):
        Budget(accelerator="cpu", **arguments).check_repeatable()


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_ddp_goes_on_from_here_unless_torchrun_has_started_processes(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "cores", lambda: 8)
    budget = Budget(accelerator="cpu", devices=2, strategy=strategy)
    budget.check_repeatable()
    assert type(budget.trainer(1).strategy) is DDPFromHere
    launched = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert type(budget.trainer(1).strategy) is DDPStrategy
    with pytest.raises(InputValueError, match="one of 2 processes that torchrun or srun"):
        budget.check_repeatable()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputValueError, match=r"^Budget: .*does not match"):
        budget.trainer(1)


def test_a_budget_of_several_devices_evaluates_on_the_first_of_them() -> None:
    assert Budget(devices=2, strategy="ddp").on_one_device() == Budget()
    listed: Any = [3, 1]  # as YAML has it
    assert Budget(devices=listed).on_one_device().devices == (3,)
    assert hash(Budget(devices=listed)) == hash(Budget(devices=(3, 1)))
