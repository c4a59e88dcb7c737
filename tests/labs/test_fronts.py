"""What labs say of the Pareto fronts of their searches."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored_runs
import yaml
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_adls.figures import canvas
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.fronts import write_fronts
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.trials import TrialTable
from lightning_adls.labs.stored import StoredRun
from lightning_adls.transforms import Quantize

FOUND = [(8.0, 0.75), (4.0, 0.5), (6.0, 0.5), (4.0, 0.75), (2.0, 0.25)]
ON_FRONT = [3, 4]


def search_of(found: list[tuple[float, float]]) -> Any:
    """A search, as far as tables need one."""
    trials: list[FrozenTrial] = []
    for index, (bits, value) in enumerate(found):
        choice = {
            "*": {"input": None, "weight": f"Integer(width={bits:.0f}, frac_width=2)", "bias": None}
        }
        about = {"index": index, "bits_per_weight": bits, "choice": choice, "seconds": 1.0}
        trial = create_trial(state=TrialState.COMPLETE, value=value, user_attrs=about)
        trial.number = index
        trials.append(trial)
    return SimpleNamespace(counted=trials, best=None, study=SimpleNamespace(user_attrs={}))


def test_the_table_says_which_trials_are_on_the_front_and_what_it_dominates(tmp_path: Path) -> None:
    searches = {"a": search_of(FOUND), "b": search_of([(10.0, 0.5)])}
    table = TrialTable(
        tmp_path / "results.csv",
        searches,
        Monitoring(100),
        "recipe",
        front="bits_per_weight",
        chance=0.25,
    )
    table.write()
    (tmp_path / "config.yaml").write_text("model: {}\n")
    (tmp_path / "summary.json").write_text('{"lab": "lab3"}')
    rows = StoredRun.read(tmp_path).rows
    assert table.reference == (10.0, 0.25)
    assert [n for n, row in enumerate(rows) if row["on_front"]] == [*ON_FRONT, len(FOUND)]
    # (10 - 8) 0.5; then (10 - 4) 0.25 more of the low half; then all of it from 4 on.
    assert [row["hypervolume"] for row in rows] == [1.0, 2.0, 2.0, 3.0, 3.0, 0.0]


def test_without_a_front_the_table_is_as_before(tmp_path: Path) -> None:
    TrialTable(tmp_path / "results.csv", {"a": search_of(FOUND)}, Monitoring(100), "recipe").write()
    header = (tmp_path / "results.csv").read_text().splitlines()[0].split(",")
    assert not {"on_front", "hypervolume", "bit_operations"} & set(header)


def test_bit_operations_have_a_column_where_a_search_counts_them(tmp_path: Path) -> None:
    searches = {"a": search_of(FOUND), "b": search_of(FOUND)}
    searches["b"].counted[1].user_attrs["bit_operations"] = 1024
    TrialTable(tmp_path / "results.csv", searches, Monitoring(100), "recipe").write()
    (tmp_path / "config.yaml").write_text("model: {}\n")
    (tmp_path / "summary.json").write_text('{"lab": "lab3"}')
    rows = StoredRun.read(tmp_path).rows
    assert [row["bit_operations"] for row in rows] == [*[None] * 6, 1024, *[None] * 3]


def test_recipes_of_the_front_are_files_and_those_that_were_outdone_go(tmp_path: Path) -> None:
    def save(trial: FrozenTrial, path: Path) -> None:
        Quantize(trial.user_attrs["choice"]).save(path)

    def written(found: list[tuple[float, float]]) -> list[Path]:
        rows = write_fronts(
            tmp_path, {"a": search_of(found)}, "bits_per_weight", Monitoring(100), save=save
        )["a"]
        paths = [tmp_path / row["choice"] for row in rows]
        assert sorted((tmp_path / "a" / "front").iterdir()) == sorted(paths)
        assert [row["val_accuracy"] for row in rows] == sorted(row["val_accuracy"] for row in rows)
        assert all(row["val_standard_error"] > 0 for row in rows)
        return paths

    assert [path.name for path in written(FOUND[:2])] == ["002.yaml", "001.yaml"]
    cheapest, best = written(FOUND)
    assert Quantize.load(cheapest).to_dict() == search_of(FOUND).counted[4].user_attrs["choice"]
    assert best.name == "004.yaml"


def test_a_choice_that_is_no_recipe_is_written_as_it_is(tmp_path: Path) -> None:
    write_fronts(tmp_path, {"a/b": search_of(FOUND)}, "bits_per_weight", Monitoring(100))
    content = yaml.safe_load((tmp_path / "a" / "b" / "front" / "004.yaml").read_text())
    assert content == {"choice": search_of(FOUND).counted[3].user_attrs["choice"]}
    assert write_fronts(tmp_path, {"none": search_of([])}, "size_mb", Monitoring(100)) == {
        "none": []
    }
    assert not (tmp_path / "none").exists()


@pytest.mark.long
def test_uniform_recipes_are_drawn_beside_the_front_and_hypervolumes_by_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(canvas, "_save", lambda made, path: drawn.update({path.stem: made}))
    run = StoredRun.read(stored_runs.lab3(tmp_path / "lab3" / "test"))
    draw(run)
    assert "hypervolume" not in drawn
    before = len(drawn["front"].axes[0].lines)
    for n, row in enumerate(run.rows):
        row |= {"on_front": 0, "hypervolume": float(n)}
    uniform = {"bits_per_weight": 4.0, "val_accuracy": 0.8, "val_standard_error": 0.01}
    run.summary["uniform"] = {"MXInt 4": uniform}
    run.summary["hypervolume_reference"] = [32.0, 0.5]
    captions = {figure.path.stem: figure.caption for figure in draw(run)}
    axes = drawn["front"].axes[0]
    assert "MXInt 4" in [text.get_text() for text in axes.texts]
    assert len(axes.lines) > before
    assert "Crosses are recipes" in captions["front"]
    assert "up to 32, and down to an accuracy of 0.5" in captions["hypervolume"]
    assert drawn["hypervolume"].axes[0].get_ylabel() == "hypervolume"
