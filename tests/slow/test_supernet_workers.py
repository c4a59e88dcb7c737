"""Worker processes judge the recipes of a supernet as one process does.

make test-slow
"""

from pathlib import Path
from typing import Any

import optuna
from driver import Rows, Small

from lightning_adls.engines import Engine, Serial, make_engine
from lightning_adls.search import Budget, FormatSpace, Objective, Search, open_study
from lightning_adls.supernet import Subnetworks, SupernetTraining
from lightning_adls.transforms import Quantize

SPACE = FormatSpace.from_templates(
    ["layers.0", "layers.2"], {"": {"weight": "LearnedInteger"}}, {"width": [2, 3, 4, 8]}
)
BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")


def values_of(supernet: Small, folder: Path, engine: Engine) -> list[Any]:
    objective: Objective[Quantize] = Objective(
        SPACE, Subnetworks(supernet), Rows(), BUDGET, folder, train=False
    )
    study = open_study(optuna.storages.InMemoryStorage(), "s", {}, optuna.pruners.NopPruner())
    Search(study, objective, optuna.samplers.RandomSampler, 12, engine=engine).run()
    ended = sorted(study.get_trials(), key=lambda trial: trial.user_attrs["index"])
    return [(trial.user_attrs["choice"], trial.value) for trial in ended]


def test_workers_judge_recipes_as_this_process_does(tmp_path: Path) -> None:
    supernet = Small(Quantize({"*": None}))
    BUDGET.trainer(4, callbacks=[SupernetTraining(SPACE)]).fit(supernet, datamodule=Rows())
    alone = values_of(supernet, tmp_path / "alone", Serial())
    with make_engine("processes", 2) as engine:
        together = values_of(supernet, tmp_path / "together", engine)
    assert together == alone
    assert len({value for _, value in alone}) > 1
