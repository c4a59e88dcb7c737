"""Tables on the screen."""

from types import ModuleType

import pytest
from rich.console import Console

from lightning_adls.commands import lab0, lab1, lab2, lab3
from lightning_adls.labs.rows.columns import accuracy, measured
from lightning_adls.labs.tables import table


def test_a_table_shows_missing_values_as_dashes() -> None:
    console = Console(width=80)
    rows: list[dict[str, object]] = [
        {"name": "a", "accuracy": 0.51234},
        {"name": "b", "accuracy": None},
    ]
    with console.capture() as capture:
        columns = {"name": ("model", ""), "accuracy": ("val acc.", ".2f"), "speedup": ("x", ".1f")}
        console.print(table("Results", rows, columns))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["a", "0.51", "-"] in lines
    assert ["b", "-", "-"] in lines


def test_an_accuracy_stands_with_its_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a", **accuracy("val", 0.864, 2000)}, {"name": "b", "val_accuracy": 0.5}]
    columns = {"name": ("model", ""), "val_accuracy": ("val acc.", ".4f")}
    Console(width=80).print(table("Results", rows, columns))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "0.8640", "±", "0.0077"] in lines
    assert ["b", "0.5000"] in lines


LARGE = {
    "model": "quantised",
    "name": "aware_retrained",
    "study": "BlockMinifloat",
    **measured("val_accuracy_before_compression", 0.864, 2000),
    **accuracy("val", 0.864, 2000),
    **accuracy("test", 0.864, 2000),
    **measured("mean_best", 0.864, 2000),
    "trials_to_best": 88.5,
    **dict.fromkeys(("parameters", "trainable"), 110_000_000),
    "size_mb": 440.123,
    "bits_per_weight": 16.25,
    "sparsity": 0.5,
    "seconds": 12345.6,
    "trials": 1000,
    "pruned": 500,
    "failed": 0,
}


@pytest.mark.parametrize("lab", [lab0, lab1, lab2, lab3], ids=lambda lab: lab.__name__)
def test_the_tables_of_each_lab_fit_80_columns(
    lab: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [
        columns
        for columns in vars(lab).values()
        if isinstance(columns, dict) and columns and set(columns) <= LARGE.keys()
    ]
    assert any("val_accuracy" in columns for columns in tables)
    for columns in tables:
        Console(width=80).print(table("Results", [LARGE], columns))
    assert "…" not in capsys.readouterr().out
