"""What is trained on two devices; run as a script, because processes import what started them.

``python devices.py share FOLDER`` is one of two processes that somebody has started, as torchrun
does. ``python devices.py start FOLDER`` starts another process itself, for each training.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.budget import Budget, batches_of
from lightning_adls.callbacks import (
    Calibration,
    Cubic,
    Distillation,
    Pruning,
    QuantizationAwareTraining,
    StagedQuantization,
)
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs.classified import Collecting
from lightning_adls.labs.row_metrics import RowMetrics
from lightning_adls.labs.training_bar import TrainingBar
from lightning_adls.models import bert
from lightning_adls.search import (
    ArchitectureSpace,
    Bars,
    Objective,
    Search,
    open_storage,
    open_study,
)
from lightning_adls.transforms import LoRA, Prune, Quantize, Transform

ADAPTERS = LoRA(layers=("*.query",), rank=2, dropout=0.0)
CASES: dict[str, tuple[Sequence[Transform], Callable[[], list[Any]]]] = {
    "full precision": ((), list),
    "learned scales": ((), lambda: [QuantizationAwareTraining({"*": "LearnedInteger(width=8)"})]),
    "late rounding": (
        (),
        lambda: [QuantizationAwareTraining({"*": "Integer(width=12, frac_width=8)"}, start=0.5)],
    ),
    "pruning": ((), lambda: [Pruning(Cubic(0.5))]),
    "stages": (
        (),
        lambda: [
            StagedQuantization(
                {share: {"*": f"LearnedInteger(width={w})"} for share, w in ((0.0, 10), (0.5, 8))}
            )
        ],
    ),
    "distillation": (
        (),
        lambda: [
            Distillation(hidden=0.1, layers=["bert.embeddings", "dropout"]),
            QuantizationAwareTraining({"*": "Integer(width=12, frac_width=8)"}),
        ],
    ),
    "calibration": ((), lambda: [Calibration({"*": "Integer(width=8)"}, "percentile", 99)]),
    "adapters": ((ADAPTERS,), list),
}


class Plain(TextClassifier):
    """By SGD: Adam makes whole steps of what is left of gradients that ought to be zero."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Settled(L.LightningModule):
    """Any module, on data that Lightning shares among devices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def texts(folder: Path, devices: int) -> TextData:
    # One row is left over for the last step of each part.
    return TextData(
        cache_dir=str(folder / "cache"),
        limit_train=31,
        limit_val=17,
        batch_size=8 // devices,
        eval_batch_size=8 // devices,
        max_length=48,
    )


def network(data: TextData) -> nn.Module:
    torch.manual_seed(0)
    made = bert(
        vocab_size=data.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


def budget(devices: int) -> Budget:
    return Budget(1, reports=2, accelerator="cpu", devices=devices)


def trained(folder: Path, devices: int, case: str) -> dict[str, Any]:
    """Metrics, the class of each row and the state dict of a training."""
    L.seed_everything(0, verbose=False)
    transforms, callbacks = CASES[case]
    data = texts(folder, devices)
    data.prepare_data()
    data.setup("fit")
    module, collecting = Plain(network(data), transforms), Collecting(folder / "answers.csv")
    reference = torch.linspace(-2, 2, 34).reshape(17, 2).log_softmax(-1)
    halves = RowMetrics({"half": torch.arange(17) % 2 == 0}, reference)
    trainer = budget(devices).trainer(
        batches_of(data), callbacks=[*callbacks(), collecting, halves, TrainingBar(case)]
    )
    trainer.fit(module, datamodule=data)
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    metrics = {k: v for k, v in logged.items() if not k.startswith("train/")}
    return {
        "steps": trainer.global_step,
        "metrics": metrics,
        "answers": {row: tuple(answer) for row, answer in collecting.answers.items()},
        "state": dict(module.state_dict()),
    }


def calibrated(devices: int) -> dict[str, Any]:
    """The recipe of a module whose data have wide values in some rows only."""
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    x[1::4] *= 50  # where the second process has them
    rows = TensorDataset(x, (x[:, 0] > 0).long())
    calibration = Calibration({"*": "Integer(width=6)"}, "percentile", batches=2)
    trainer = Budget(1, reports=1, accelerator="cpu", devices=devices).trainer(
        16 // 8 * devices, callbacks=[calibration]
    )
    trainer.fit(Settled(), DataLoader(rows, batch_size=8 // devices))
    assert calibration.recipe is not None
    return calibration.recipe.to_dict()


def sharded(devices: int) -> dict[str, Any]:
    """The state of a quantised and pruned network that was trained in shards."""

    def network(recipe: str) -> nn.Sequential:
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        Prune(0.5)(made)
        Quantize({"*": recipe})(made)
        return made

    def shard(made: nn.Sequential) -> None:
        if devices > 1:
            for part in (made[0], made[2], made):
                fully_shard(part)

    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    rank = torch.distributed.get_rank() if devices > 1 else 0
    model = network("MXInt(width=4)")
    shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits = model.train()(x[rank::devices])
        nn.functional.cross_entropy(logits, torch.arange(8)[rank::devices] % 4).backward()
        optimizer.step()
    state = {
        k: v.full_tensor() if hasattr(v, "full_tensor") else v
        for k, v in model.state_dict().items()
    }
    learning = network("LearnedInteger(width=4)")
    shard(learning)
    try:
        learning.train()
    except InputValueError as error:
        return {"state": state, "refused": str(error)}
    return {"state": state, "refused": None}


def found(folder: Path, devices: int) -> dict[str, Any]:
    cases = {case: trained(folder, devices, case) for case in CASES}
    return {**cases, "recipe": calibrated(devices), "sharded": sharded(devices)}


class SecondIsWeak(optuna.pruners.BasePruner):
    """Stops the second trial at its first validation."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 1


class Failing(L.Callback):
    """Fails in the second process only."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_rank == 1:
            raise ZeroDivisionError("of the second process")


def searched(folder: Path, devices: int) -> dict[str, Any]:
    """The trials of a search, and the weights of the best."""
    data = texts(folder, devices)
    space = ArchitectureSpace([1], [1, 2], [16], [32])

    def build(choice: Any) -> L.LightningModule:
        return Plain(network(data))

    bars = Bars(Console())
    objective = Objective(space, build, data, budget(devices), folder / str(devices))
    with open_storage(folder / f"{devices}.journal") as storage:
        study = open_study(storage, "study", {}, SecondIsWeak())
        search = Search(study, objective, optuna.samplers.RandomSampler, 2, listeners=[bars])
        search.run()
        assert search.best is not None
        best = torch.load(objective.checkpoint(search.best), weights_only=True)
        trials = [
            {"state": t.state.name, "values": t.intermediate_values} for t in study.get_trials()
        ]
    return {"trials": trials, "best": best["state_dict"]}


def failed(callbacks: list[L.Callback]) -> Iterator[str]:
    """What a training ends with that cannot be, and whether anything is left of it."""
    trainer = budget(2).trainer(4, callbacks=callbacks)
    rows = TensorDataset(torch.ones(16, 8), torch.ones(16).long())
    try:
        trainer.fit(Settled(), DataLoader(rows, batch_size=4))
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
    yield str(torch.distributed.is_initialized() or torch.multiprocessing.active_children())


def main(how: str, folder: Path) -> None:
    if how == "share":
        mine = found(folder, 2)
        torch.save(mine, folder / f"rank{torch.distributed.get_rank()}.pt")
        return
    local = Failing()
    local.made_here = lambda: None  # type: ignore[attr-defined]  # has no name in a file
    report = {
        "searched": searched(folder, 2),
        "failed": list(failed([Failing()])),
        "not sent": list(failed([local])),
        "threads": torch.get_num_threads(),
    }
    torch.save(report, folder / "started.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
