"""Tables on the screen."""

from rich.console import Console

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
