"""Lab 3 with recipes that are planned before the search, as its users run it."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_lab3 import LAB3, SMALL_LAB3

from lightning_adls.labs.strategies import SEARCHES, searches_of, study_of

Run = Callable[..., int]
PLAN = [*SMALL_LAB3, "--strategy=plan", "--planning.samples=3", "--planning.checks=3"]
# Each family of formats takes the longest to score.
TWO = ["--studies={MXInt: [MXInt], Mixed: [MXInt, Log]}", "--figures={a: [MXInt, Mixed]}"]


@pytest.fixture(autouse=True)
def cache(cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are tokenised once."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_lab3_tries_plans_and_then_another_strategy_in_the_same_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*PLAN, *TWO, "--budget_bits=4"]
    assert run(LAB3, *arguments) == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    first = rows(folder)
    assert [(row["study"], row["strategy"], row["trial"]) for row in first] == [
        *(("MXInt_plan", "plan", n) for n in "123"),
        *(("Mixed_plan", "plan", n) for n in "123"),
    ]
    steps = json.loads((folder / "run.json").read_text())["steps"]
    for study in ("MXInt", "Mixed"):
        trials = [row for row in first if row["study"] == f"{study}_plan"]
        bits = [float(row["bits_per_weight"]) for row in trials]
        planned = [each["bits_per_weight"] for each in steps[f"plan/{study}/3"]["plans"]]
        assert bits == pytest.approx(planned, abs=1e-3), "what was planned is what is tried"
        assert 4 >= bits[0] > bits[2] > bits[1], "the budget, the least, between them"
        assert all(float(row["seconds_before"]) > 0 for row in trials)
    recipe = yaml.safe_load((folder / "Mixed_plan" / "best_recipe.yaml").read_text())["quantize"]
    assert any(json.loads(row["recipe"]) == recipe for row in first)
    printed = capsys.readouterr().out
    assert "MXInt: scoring its formats ..." in printed
    assert "random plans: rank correlation" in printed
    assert not (folder / "strategies.png").exists(), "there is only one"
    assert (folder / "sensitivity_MXInt.png").read_bytes().startswith(b"\x89PNG")

    assert run(LAB3, *arguments) == 0
    assert rows(folder) == first
    assert "scoring" not in capsys.readouterr().out, "nothing is scored again"

    assert run(LAB3, *SMALL_LAB3, *TWO, "--only=[MXInt]") == 0
    later = rows(folder)
    assert [row for row in later if row["strategy"] == "plan"] == first
    assert {row["study"] for row in later} == {"MXInt", "MXInt_plan", "Mixed_plan"}
    widths = [row["recipe"] for row in later if row["study"] == "MXInt"]
    assert all("width=32" in text or "width=16" in text for text in widths), "its own ranges"
    assert (folder / "strategies.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_more_plans_continue_those_that_were_tried(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    arguments = [*PLAN, "--only=[MXInt]"]
    assert run(LAB3, *arguments, "--trials=2") == 0
    first = [row["recipe"] for row in rows(folder)]
    assert run(LAB3, *arguments, "--trials=5") == 0
    assert [row["recipe"] for row in rows(folder)][:2] == first
    assert len({row["recipe"] for row in rows(folder)}) == 5
    capsys.readouterr()
    assert run(LAB3, *arguments, "--trials=5", "--status") == 0
    assert re.search(r"MXInt_plan +5/5", capsys.readouterr().out)


@pytest.mark.long
def test_one_choice_for_all_layers_is_planned_for_all_of_them(run: Run, tmp_path: Path) -> None:
    assert run(LAB3, *PLAN, "--only=[Integer]", "--share=true", "--trials=2") == 0
    found = rows(tmp_path / "lightning_logs" / "lab3" / "test")
    assert [list(json.loads(row["recipe"])) for row in found] == [["*"], ["*"]]
    assert json.loads(found[0]["recipe"]) != json.loads(found[1]["recipe"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget_bits=4", "--only=[Full]"], "budget_bits=4 is below .* Full (32)"),
        (["--budget_bits=1.5", "--only=[MXInt, Binary]"], "of MXInt ("),
        (["--budget_bits=0"], "budget_bits=0.0 is not above 0"),
        (["--planning.samples=0"], "planning: samples=0 is below 1"),
        (["--planning.checks=2"], "planning: checks=2 is below 3"),
        (["--strategy=best"], "strategy"),
    ],
)
def test_a_budget_that_cannot_be_had_is_refused_before_any_work(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    said = refused(LAB3, *PLAN, *arguments)
    head, _, tail = message.partition(" .* ")
    assert head in said
    assert tail in said
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.long
def test_studies_that_nobody_named_are_left_out_where_they_are_too_large(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "--studies={Full: [Full], Binary: [Binary]}"
    assert run(LAB3, *PLAN, "--budget_bits=2", few, "--figures={a: [Binary]}", "--trials=1") == 0
    assert "Left out, above 2 bits per weight: Full (32)" in capsys.readouterr().out
    found = rows(tmp_path / "lightning_logs" / "lab3" / "test")
    assert [row["study"] for row in found] == ["Binary_plan"]


def test_a_search_is_found_by_its_name_whatever_studies_are_called() -> None:
    studies = ["A", "A_b", "Mixed"]
    names = [(s, e, n) for s in studies for e in SEARCHES for n in searches_of(s, e)]
    assert all(study_of(name, studies) == (study, each) for study, each, name in names)


@pytest.mark.long
def test_one_training_judges_all_recipes_and_the_best_are_finished(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *(*SMALL_LAB3, "--strategy=one_shot", "--budget_bits=4", "--only=[MXInt]"),
        *("--one_shot.evaluations=5", "--one_shot.finish=2", "--one_shot.budget.reports=1"),
    ]
    assert run(LAB3, *arguments) == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    first = rows(folder)
    judged, finished = (
        [row for row in first if row["study"] == name] for name in searches_of("MXInt", "one_shot")
    )
    assert [row["state"] for row in judged] == ["complete"] * 5
    assert all(float(row["bits_per_weight"]) <= 4 for row in first)
    assert len(finished) == 2
    ranked = sorted(
        judged, key=lambda row: (-float(row["val_accuracy"]), float(row["bits_per_weight"]))
    )
    assert finished[0]["recipe"] == ranked[0]["recipe"]
    assert (folder / "MXInt_finished" / "best_recipe.yaml").is_file()
    assert "one training for all recipes ..." in capsys.readouterr().out
    assert run(LAB3, *arguments, "--status") == 0
    told = capsys.readouterr().out
    assert re.search(r"MXInt_one_shot +5/5", told)
    assert re.search(r"MXInt_finished +2/2", told)
    assert run(LAB3, *arguments) == 0
    assert rows(folder) == first
    assert "one training" not in capsys.readouterr().out, "it is done once"


def test_one_shot_refuses_layers_of_mase(refused: Callable[..., str]) -> None:
    arguments = ["--strategy=one_shot", "--backend=mase", "--only=[Integer]"]
    assert "backend=mase has layers of one format each" in refused(LAB3, *SMALL_LAB3, *arguments)
    assert "one_shot: finish=0" in refused(LAB3, *SMALL_LAB3, "--one_shot.finish=0")


def test_one_shot_refuses_two_teachers_and_compiled_layers_before_any_work(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    arguments = [*SMALL_LAB3, "--strategy=one_shot", "--only=[MXInt]"]
    taught = "--callbacks=[{class_path: lightning_adls.callbacks.Distillation}]"
    said = refused(LAB3, *arguments, taught)
    assert "one_shot: distill=True and Distillation of callbacks are two teachers" in said
    for chosen in ("auto", "layers", "true"):
        said = refused(LAB3, *arguments, f"--classifier.compile={chosen}")
        assert "classifier.compile" in said
        assert "strategy=one_shot" in said
    assert not (tmp_path / "lightning_logs").exists()
