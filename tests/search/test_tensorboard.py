"""Searches in TensorBoard while they run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial
from studies import Recipes, run, study_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lightning_adls import search
from lightning_adls.search import FormatSpace, Listener, Search, TensorBoardRuns
from lightning_adls.search.columns import short_names
from lightning_adls.search.front import hypervolumes, reference_of


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    tags: list[str] = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def choices(folder: Path) -> dict[str, Any]:
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: value.string_value or value.number_value for name, value in start.hparams.items()}


class Reader(Listener):
    """Reads what is there after each trial, as TensorBoard would while the search runs."""

    def __init__(self) -> None:
        self.seen: list[tuple[set[str], list[tuple[int, float]]]] = []

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        folder = search.objective.folder
        rows = {path.name for path in (folder / "hparams").iterdir()}
        self.seen.append((rows, scalars(folder)["search/running_best"]))


def test_each_trial_is_there_as_soon_as_it_has_ended(quick: Recipes, tmp_path: Path) -> None:
    study, reader = study_of(tmp_path / "journal"), Reader()
    run(study, quick, 3, listeners=[TensorBoardRuns("place"), reader])
    assert [sorted(rows) for rows, _ in reader.seen] == [
        ["001"],
        ["001", "002"],
        ["001", "002", "003"],
    ]
    assert [[step for step, _ in curve] for _, curve in reader.seen] == [[1], [1, 2], [1, 2, 3]]


def test_a_row_has_what_was_chosen_and_what_came_of_it(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    run(study, quick, 2, listeners=[TensorBoardRuns("place")])
    for n, trial in enumerate(search.counted_trials(study), 1):
        row = quick.folder / "hparams" / f"{n:03d}"
        assert choices(row) == {"weight": trial.params["*.weight"], "state": "complete"}
        found = scalars(row)
        ((step, value),) = found["trial/value"]
        assert step == n
        assert value == pytest.approx(trial.value)
        assert set(found) == {
            f"trial/{name}" for name in ("value", "bits_per_weight", "size_mb", "seconds")
        }


def test_the_front_has_the_trials_that_no_other_outdoes(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    run(study, quick, 4, "grid", [TensorBoardRuns("place")])
    points = [
        (t.user_attrs["bits_per_weight"], t.value or 0.0) for t in search.counted_trials(study)
    ]
    expected = [
        (round(100 * bits), pytest.approx(value))
        for bits, value in sorted(set(points))
        if not any(b <= bits and v >= value and (b, v) != (bits, value) for b, v in points)
    ]
    front = scalars(quick.folder / "pareto")["search/front_by_bits_x100"]
    assert "search/hypervolume" not in scalars(quick.folder)  # of one objective
    assert [step for step, _ in front] == [step for step, _ in expected]
    assert [value for _, value in front] == [value for _, value in expected]


def test_hypervolumes_count_from_the_highest_cost_of_all_searches(
    quick: Recipes, tmp_path: Path
) -> None:
    listener = TensorBoardRuns("place", overview=tmp_path / "overview", chance=0.25)
    trials = {}
    with search.open_storage(tmp_path / "journal") as storage:
        for name, width in (("narrow", 3), ("wide", 8)):
            space = FormatSpace.from_templates(["*"], {"": "MXInt"}, {"width": [2, width]})
            objective = replace(
                quick, space=space, folder=tmp_path / name, minimise=("bits_per_weight",)
            )
            study = search.open_study(
                storage, name, space.to_dict(), NopPruner(), minimise=objective.minimise
            )
            Search(study, objective, NSGAIISampler, trials=2, listeners=[listener]).run()
            trials[name] = search.counted_trials(study)
    reference = reference_of([t for each in trials.values() for t in each], "bits_per_weight", 0.25)
    for name, each in trials.items():
        curve = scalars(tmp_path / "overview" / name)["search/hypervolume"]
        expected = hypervolumes(each, "bits_per_weight", reference)
        assert [step for step, _ in curve] == [1, 2]
        assert [value for _, value in curve] == pytest.approx(expected)
    assert reference[0] > max(t.user_attrs["bits_per_weight"] for t in trials["narrow"])


def test_a_continued_search_writes_what_an_uninterrupted_one_does(
    quick: Recipes, tmp_path: Path
) -> None:
    halves, whole = (replace(quick, folder=tmp_path / name) for name in ("halves", "whole"))
    run(study_of(tmp_path / "a"), whole, 4, "random", [TensorBoardRuns("place")])
    run(study_of(tmp_path / "b"), halves, 2, "random")  # as if killed before it told of them
    run(study_of(tmp_path / "b"), halves, 4, "random", [TensorBoardRuns("place")])
    first, second = scalars(halves.folder), scalars(whole.folder)
    assert first["search/running_best"] == second["search/running_best"]
    assert scalars(halves.folder / "pareto") == scalars(whole.folder / "pareto")
    rows = [sorted(p.name for p in (e.folder / "hparams").iterdir()) for e in (halves, whole)]
    assert rows[0] == rows[1]
    for name in rows[0]:
        assert choices(halves.folder / "hparams" / name) == choices(whole.folder / "hparams" / name)


def test_a_search_without_trials_writes_nothing(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    TensorBoardRuns("place").begun(Search(study, quick))
    assert not quick.folder.exists()


def test_many_layers_are_shown_by_their_bits_and_the_shares_of_classes() -> None:
    classes = {"Integer": {"weight": "Integer(frac_width=1)"}, "Full": None}
    layers = [f"layer.{n}" for n in range(4)]
    space = FormatSpace.from_templates(layers, classes, {"width": [4, 8]})
    params = {f"layer.{n}.class": "Integer" if n else "Full" for n in range(4)}
    texts = [None, *(f"Integer(width={n}, frac_width=1)" for n in (4, 4, 8))]
    choice = {
        layer: {"input": None, "weight": text, "bias": None}
        for layer, text in zip(layers, texts, strict=True)
    }
    assert space.overview(params, choice) == {
        "weight_bits": 12.0,
        "share_Integer": 0.75,
        "share_Full": 0.25,
    }, "inputs and biases are the same in all trials"


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a.b.weight", "a.c.weight"], ["b", "c"]),
        (["*.input", "*.weight"], ["input", "weight"]),
        (["hidden_size"], ["hidden_size"]),
        (["x.0.a", "x.1.a", "a.0"], ["x.0.a", "x.1.a", "a.0"]),
        ([], []),
    ],
)
def test_names_are_short_and_differ(names: Sequence[str], short: Sequence[str]) -> None:
    assert list(short_names(names).values()) == short


def test_a_dashboard_is_told_what_values_are_and_the_numbers_of_our_tables(
    quick: Recipes, tmp_path: Path
) -> None:
    study = study_of(tmp_path / "journal")
    interrupted = study.ask()
    run(study, quick, 2)
    assert study.metric_names == ["val/accuracy"]
    assert interrupted.number == 0
    numbers = [(t.number, t.user_attrs["trial"]) for t in search.counted_trials(study)]
    assert numbers == [(1, 1), (2, 2)]
