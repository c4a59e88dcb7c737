"""A search can be stopped at any moment and ends as if it had not been."""

import re
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from studies import Plain, Recipes, Trials, run, study_of

from lightning_adls import search
from lightning_adls.data import TextData
from lightning_adls.search import Bars, FormatSpace, Listener, Search
from lightning_adls.transforms import Quantize


class Interruption(Listener):
    """Stops a search after some trials, as a killed process leaves it: with a trial that runs."""

    def __init__(self, after: int) -> None:
        self.after = after

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        if len(search.counted) == self.after:
            search.study.ask()
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "sampler",
    [
        partial(TPESampler, n_startup_trials=3),
        "random",
        "grid",
        partial(NSGAIISampler, population_size=2),
    ],
)
def test_an_interrupted_search_ends_as_if_it_had_not_been(tmp_path: Path, sampler: Any) -> None:
    objective: Any = Plain(tmp_path)
    whole = run(study_of(tmp_path / "whole"), objective, 9, sampler)
    path = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        run(study_of(path), objective, 9, sampler, [Interruption(after=4)])
    with path.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_')  # and a line that is torn
    Path(f"{path}.lock").symlink_to(path)  # and a lock
    study = study_of(path)
    assert run(study, objective, 9, sampler) == whole
    assert len(study.trials) == 10, "the interrupted one is kept, and does not count"


def test_a_trained_search_that_was_interrupted_leaves_the_same_files(
    recipes: Recipes, tmp_path: Path
) -> None:
    whole = replace(recipes, folder=tmp_path / "whole")
    run(study_of(tmp_path / "whole.journal"), whole, 4)
    with pytest.raises(KeyboardInterrupt):
        run(study_of(tmp_path / "journal"), recipes, 4, listeners=[Interruption(after=2)])
    run(study_of(tmp_path / "journal"), recipes, 4)
    assert files(recipes.folder) == files(whole.folder)


def files(folder: Path) -> set[str]:
    """All files, but for what TensorBoard adds to their names."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)).partition(".out.")[0] for path in paths}


def test_a_checkpoint_that_a_killed_process_did_not_remove_is_gone_after_the_next_call(
    recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path / "journal")
    values = iter([0.5, 0.6, 0.4])
    objective = replace(recipes, train=False, monitor="value", build=lambda _: Known(next(values)))
    with monkeypatch.context() as killed:
        killed.setattr(search.driver, "drop_outdone", lambda *_: None)
        killed.setattr(search.search, "sweep", lambda *_: None)
        run(study, objective, 3)
    assert len(list(recipes.folder.glob("*.ckpt"))) == 2
    run(study, objective, 3)
    assert [path.name for path in recipes.folder.glob("*.ckpt")] == ["trial-002.ckpt"]


class Known(L.LightningModule):
    """Its metric is what it is given."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.value = value

    def validation_step(self, batch: object, batch_idx: int) -> None:
        self.log("value", self.value, batch_size=1)


def test_a_complete_search_runs_nothing_more_and_writes_nothing(
    quick: Recipes, tmp_path: Path
) -> None:
    before = run(study_of(tmp_path / "journal"), quick, 2)
    content = (tmp_path / "journal").read_bytes()
    broken = replace(quick, build=lambda recipe: pytest.fail("ran a trial again"))
    assert run(study_of(tmp_path / "journal"), broken, 2) == before
    assert len((tmp_path / "journal").read_bytes()) - len(content) < 1000  # opening it adds a line


def test_a_changed_search_is_refused_with_the_difference(tmp_path: Path) -> None:
    study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}})
    study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}})
    with pytest.raises(ValueError, match=r"space\.width: \[4, 8\] → \[4\]\); restore them"):
        study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4]}})
    with pytest.raises(ValueError, match="train: null → true"):
        study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}, "train": True})


def test_a_study_whose_settings_nobody_knows_is_refused(tmp_path: Path) -> None:
    with search.open_storage(tmp_path / "journal") as storage:
        optuna.create_study(storage=storage, study_name="study").ask()
    with pytest.raises(ValueError, match="an earlier version or another program made it"):
        study_of(tmp_path / "journal")


def test_weak_trials_are_pruned_and_recorded(recipes: Recipes, tmp_path: Path) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=50)
    study = study_of(tmp_path / "journal", pruner=pruner)
    run(study, recipes, 1)
    (trial,) = search.counted_trials(study)
    assert trial.state == TrialState.PRUNED
    assert list(trial.intermediate_values) == [33, 67]
    (row,) = search.trial_rows({"study": study})
    assert row["state"] == "pruned"
    assert row["value"] == trial.intermediate_values[67]
    assert row["running_best"] is None
    assert search.best_trial(study) is None


def test_only_the_best_trial_keeps_its_checkpoint_and_it_reproduces_the_value(
    recipes: Recipes, tmp_path: Path, trainer: L.Trainer, texts: TextData
) -> None:
    study = study_of(tmp_path / "journal")
    run(study, recipes, 4)
    best = search.best_trial(study)
    assert best is not None
    assert best.value == max(t.value or 0 for t in search.counted_trials(study))
    assert [p.name for p in (tmp_path / "study").glob("*.ckpt")] == [best.user_attrs["checkpoint"]]
    trainer.validate(recipes.load(best), datamodule=texts, verbose=False)
    assert trainer.callback_metrics["val/accuracy"].item() == best.value


def test_a_space_of_one_point_is_tried_once(quick: Recipes, tmp_path: Path) -> None:
    full = FormatSpace.from_templates(["*"], {"Full": None}, {})
    study = study_of(tmp_path / "journal")
    assert len(run(study, replace(quick, space=full), 5)) == 1


def test_a_repeated_choice_takes_over_the_value_without_training(
    quick: Recipes, tmp_path: Path
) -> None:
    built = []

    def build(recipe: Quantize) -> L.LightningModule:
        built.append(recipe)
        return quick.build(recipe)

    study = study_of(tmp_path / "journal")
    rows = run(study, replace(quick, build=build), 12, "random")
    distinct = {str(params): value for params, value in rows}
    assert len(built) == len(distinct) == 4, "all points, each judged once"
    assert all(distinct[str(params)] == value for params, value in rows)


def test_listeners_are_told_in_order_what_happens(tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear(Listener):
        def begun(self, search: Search[Any]) -> None:
            heard.append(f"begun with {len(search.counted)} of {search.total}")

        def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
            heard.append(f"{trial.state.name} {trial.value} best {search.curve[-1][1]}")

        def ended(self, search: Search[Any]) -> None:
            assert search.best is not None
            heard.append(f"ended with {search.best.value}")

    study = study_of(tmp_path / "journal")
    trials: Trials = run(study, Plain(tmp_path), 2, "grid", [Ear()])
    first, second = (value for _, value in trials)
    assert first is not None
    assert second is not None
    best = max(first, second)
    assert heard == [
        "begun with 0 of 2",
        f"COMPLETE {first} best {first}",
        f"COMPLETE {second} best {best}",
        f"ended with {best}",
    ]
    heard.clear()
    run(study, Plain(tmp_path), 2, "grid", [Ear()])
    assert heard == ["begun with 2 of 2", f"ended with {best}"]


def test_a_search_without_a_terminal_is_told_in_a_line_for_each_trial(
    quick: Recipes, tmp_path: Path
) -> None:
    output = StringIO()
    with Bars(Console(file=output, width=60), studies=2) as bars:
        run(study_of(tmp_path / "journal"), quick, 2, "grid", [bars])
        run(study_of(tmp_path / "other"), quick, 2, "grid", [bars])
    lines = output.getvalue().splitlines()
    assert len(lines) == len(set(lines)) == 4
    told = r"study [12]/2 complete, best 0\.\d{4}; (1|2|3) of 4, \d+ per hour, about \d+ s left"
    assert all(re.fullmatch(told, line) for line in lines[:3]), lines
    assert re.search(r"; 4 of 4, \d+ per hour$", lines[3])


def test_the_bar_of_a_search_moves_on_within_a_trial(
    recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search.judged, "_PROGRESS_SECONDS", 0.0)
    seen: list[float] = []
    bars = Bars(Console(file=StringIO(), force_terminal=True))

    class Looking(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(bars._bars.tasks[0].completed)

    with bars:
        objective = replace(recipes, callbacks=[Looking])
        run(study_of(tmp_path / "journal"), objective, 2, "random", [bars])
    assert seen[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert seen[3] > 1


def test_a_search_of_no_trials_is_refused(quick: Recipes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trials=0 is below 1"):
        Search(study_of(tmp_path / "journal"), quick, TPESampler, trials=0)


def test_evaluating_only_leaves_the_weights_alone(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    run(study, quick, 2)
    best = search.best_trial(study)
    assert best is not None
    L.seed_everything(quick.seed, verbose=False)
    fresh = quick.build(quick.space.read(best.user_attrs["choice"])).state_dict()
    for name, value in quick.load(best).state_dict().items():
        assert torch.equal(value, fresh[name]), name
