"""Figures of each lab, from generated rows alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stored_runs
import yaml

from lightning_adls.errors import InputValueError
from lightning_adls.figures import canvas
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import write_csv

FIGURES_SCRIPT = Path(__file__).parents[2] / "scripts" / "figures.py"
FIGURES = {
    "lab0": {"curves", "confusion"},
    "lab1": {"widths", "sparsities", "front", "formats", "confusion"},
    "lab2": {"samplers", "compression_aware", "front", "importances", "confusion"},
    "lab3": {"task1_integer", "running_best", "front", "formats", "importances", "confusion"},
    "lab4": {
        *(
            f"attention_{kind}_cpu_mask_{mask}_{what}"
            for kind in ("forward", "forward_backward")
            for mask in ("none", "padding")
            for what in ("median", "peak")
        ),
        *("mxint8_operators_cpu", "mxint8_linear_cpu", "mxint8_memory", "export_bytes"),
    },
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that were drawn, by name, none of them written."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(canvas, "_save", lambda made, path: found.update({path.stem: made}))
    return found


@pytest.mark.long
@pytest.mark.parametrize("lab", FIGURES)
def test_each_lab_has_its_figures_from_rows_alone(
    lab: str, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    folder = stored_runs.MAKE[lab](tmp_path / lab / "test")
    run = StoredRun.read(folder)
    figures = draw(run)
    assert {figure.path.stem for figure in figures} == FIGURES[lab] == set(drawn)
    assert all(figure.path.parent == folder and figure.caption for figure in figures)
    for figure in drawn.values():
        subtitle = figure.texts[-1].get_text()
        if lab != "lab4":
            assert subtitle.replace("\n", " ") == (
                "reviews, 64 tokens; bert, hidden layers 2, hidden size 64; "
                f"rows: 2,000 train, 500 val, 1,000 test; seed{'s 0, 1' if lab == 'lab2' else ' 0'}"
            )


def test_a_lab_of_your_own_has_a_front_and_confusions(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    run = StoredRun.read(stored_runs.own_lab(tmp_path / "lab5" / "test"))
    assert [figure.path.stem for figure in draw(run)] == ["front", "confusion"]
    assert drawn["front"].axes[0].get_xlabel() == "bits per weight"
    assert len(drawn["confusion"].axes) == 2, "those that were tested"


def test_without_predictions_there_is_no_confusion_matrix(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    folder = stored_runs.lab1(tmp_path / "lab1" / "test", paired=False)
    draw(StoredRun.read(folder))
    assert set(drawn) == FIGURES["lab1"] - {"confusion"}


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is(tmp_path: Path, drawn: dict[str, Any]) -> None:
    folder = stored_runs.lab3(tmp_path / "lab3" / "test")
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "predictions")
    draw(StoredRun.read(folder))
    assert set(drawn) == FIGURES["lab3"] - {"confusion"}


@pytest.mark.long
def test_one_seed_has_errors_and_several_have_bands(tmp_path: Path, drawn: dict[str, Any]) -> None:
    for seeds in ((0,), (0, 1)):
        draw(StoredRun.read(stored_runs.lab2(tmp_path / "lab2" / str(seeds), seeds)))
        axes = drawn["samplers"].axes[0]
        assert (len(axes.containers), len(axes.collections) - len(axes.containers)) == (
            (2, 0) if len(seeds) == 1 else (2, 2)
        )


def test_a_search_for_the_lowest_says_of_what_and_has_no_levels_of_accuracy(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    folder = stored_runs.lab3(tmp_path / "lab3" / "test")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    looking = {"monitor": "val/loss", "report_on": "half"}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **looking}))
    captions = {figure.path.stem: figure.caption for figure in draw(StoredRun.read(folder))}
    assert drawn["running_best"].axes[0].get_ylabel() == "validation loss in nats"
    assert captions["running_best"].startswith("Best validation loss in nats so far")
    assert (
        "the half of the validation rows by which trials are compared" in captions["running_best"]
    )
    labels = [text.get_text() for text in drawn["running_best"].legends[0].get_texts()]
    assert not any(label.startswith(("float32", "chance")) for label in labels)


def test_the_start_is_drawn_on_the_rows_that_it_is_compared_with(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    folder = stored_runs.lab3(tmp_path / "lab3" / "test")
    summary = json.loads((folder / "summary.json").read_text())
    summary["start"] |= {"value": 0.81, "value_standard_error": 0.02}
    (folder / "summary.json").write_text(json.dumps(summary))
    draw(StoredRun.read(folder))
    for name, expected in (("running_best", 0.81), ("front", summary["start"]["val_accuracy"])):
        lines = [line.get_ydata() for line in drawn[name].axes[0].lines]
        levels = {float(y[0]) for y in lines if len(y) > 1 and len(set(map(float, y))) == 1}
        assert expected in levels, name
        assert ({0.81, summary["start"]["val_accuracy"]} - {expected}).isdisjoint(levels), name


def test_runs_of_before_that_say_no_value_are_drawn(tmp_path: Path, drawn: dict[str, Any]) -> None:
    folder = stored_runs.lab3(tmp_path / "lab3" / "test")
    later = {"value", "running_best_standard_error", "val_divergence", "flips"}
    rows = [
        {column: cell for column, cell in row.items() if column not in later}
        for row in StoredRun.read(folder).rows
    ]
    write_csv(folder / "results.csv", rows)
    draw(StoredRun.read(folder))
    assert set(drawn) == FIGURES["lab3"]


def test_make_figures_draws_what_it_is_given_and_says_where(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored_runs.lab0(Path("lightning_logs", "lab0", "test"))
    assert run(FIGURES_SCRIPT, "lab0/test") == 0
    assert capsys.readouterr().out.split() == [f"{folder}/curves.png", f"{folder}/confusion.png"]
    assert {path.suffix for path in folder.glob("curves.*")} == {".png", ".pdf"}


def test_make_figures_refuses_what_is_no_run_in_one_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FIGURES_SCRIPT, "nowhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run='nowhere' is no folder" in line


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "is no folder; give one such as"),
        (lambda folder: (folder / "results.csv").unlink(), "has no results.csv"),
        (lambda folder: (folder / "results.csv").write_text("step,accuracy\na,1\n"), "earlier"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = stored_runs.lab1(tmp_path / "lab1" / "test", paired=False)
    spoil(folder)
    with pytest.raises(InputValueError, match=message):
        StoredRun.read(folder)


def test_a_run_of_nobody_knows_which_lab_is_refused(tmp_path: Path) -> None:
    folder = stored_runs.lab1(tmp_path / "mine" / "test", paired=False)
    (folder / "summary.json").write_text("{}")
    with pytest.raises(InputValueError, match=r"run of none of lab0.*own_results.write_results"):
        StoredRun.read(folder)
