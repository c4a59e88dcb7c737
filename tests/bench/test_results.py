"""Rows of experiments on disk."""

import csv
import json
from pathlib import Path

import pytest

from lightning_adls.bench import Results, Variant, attempt


def test_results_are_on_disk_after_every_addition(tmp_path: Path) -> None:
    results = Results(tmp_path, ["mask"], {"versions": {"torch": "2"}})
    for n in (1, 2):
        results.add("attention", "forward", [{"target": f"t{n}"}], mask="none")
        with (tmp_path / "results.csv").open() as file:
            found = [(row["target"], row["mask"]) for row in csv.DictReader(file)]
        assert found == [("t1", "none"), ("t2", "none")][:n]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["versions"] == {"torch": "2"}
    assert summary["total_seconds"] >= 0
    assert len(summary["results"]) == 2


def test_results_of_an_experiment_are_those_that_could_be_measured(tmp_path: Path) -> None:
    results = Results(tmp_path, [], {})
    for device, error in (("cpu", None), ("cpu", "no"), ("cuda", "no")):
        results.add("part", "forward", [{"target": "t", "device": device, "error": error}])
    assert len(results.of("forward")) == len(results.of("forward", "cpu")) == 1
    assert results.devices_of("forward") == ["cpu"]


def test_what_could_not_be_measured_is_a_line_for_each_reason(tmp_path: Path) -> None:
    results = Results(tmp_path, [], {})
    for part, target, error in (
        *(("one", "a", "no kernel"), ("one", "b", None), ("one", "a", "no kernel")),
        *(("one", "c", "no kernel"), ("one", "c", "too large"), ("two", "d", "no kernel")),
        *(("two", each, "no kernel") for each in "efg"),
    ):
        results.add(part, "forward", [{"target": target, "device": "cpu", "error": error}])
    assert results.failures("one") == [
        "Not measured, 3 x (a, c on cpu): no kernel",
        "Not measured, 1 x (c on cpu): too large",
    ]
    assert results.failures("one", "two") == [
        "Not measured, 7 x (a, c, d, e and 2 more on cpu): no kernel",
        "Not measured, 1 x (c on cpu): too large",
    ]


def test_whoever_listens_hears_of_each_record(tmp_path: Path) -> None:
    heard: list[object] = []
    results = Results(tmp_path, [], {}, lambda record: heard.append(record["target"]))
    results.add("part", "forward", [{"target": name, "device": "cpu"} for name in "ab"])
    assert heard == ["a", "b"]


def test_an_attempt_that_fails_is_a_row_that_says_why() -> None:
    def fails() -> dict[str, object]:
        raise RuntimeError("no kernel\nadvice")

    row = attempt("net", Variant(dtype="bfloat16"), "cpu", fails)
    assert (row["target"], row["dtype"], row["error"]) == (
        *("net", "bfloat16"),
        "RuntimeError: no kernel",
    )
    assert attempt("net", Variant(), "cpu", lambda: {"graphs": 3})["graphs"] == 3


def test_a_row_with_a_key_that_nobody_announced_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="speed"):
        Results(tmp_path, [], {}).add("part", "forward", [{"speed": 1}])
