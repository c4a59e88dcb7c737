"""What the parts of Lab 4 have in common: their checks, and their tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

from lightning_adls.bench.records import Record
from lightning_adls.bench.results import StoredResults
from lightning_adls.errors import InputValueError

Columns = Mapping[str, tuple[str, str]]
"""By key of the records, in order: the header and the format specification."""


class Table(NamedTuple):
    """What ``labs.tables.table`` makes a table of."""

    title: str
    records: Sequence[Record]
    columns: Columns


class Part(Protocol):
    """Some experiments that were measured, to be shown.

    Attributes:
        name: Of the part, in the results.
        extra_keys: What its records hold beside a ``Measurement``.
    """

    name: ClassVar[str]
    extra_keys: ClassVar[tuple[str, ...]]

    def tables(self, results: StoredResults) -> Iterator[Table]:
        """What to show on the screen; the files hold all keys."""

    def explain(self, results: StoredResults) -> str:
        """What the numbers mean; empty where they speak for themselves."""

    def draw(self, results: StoredResults) -> None:
        """Draw the figures into the folder of the results."""


def tables_of(results: StoredResults, part: str, columns: Mapping[str, Columns]) -> Iterator[Table]:
    """A table per experiment and device, and per data type where that has no column.

    Args:
        results: All of them.
        part: Begins the titles.
        columns: By experiment.
    """
    for experiment, shown in columns.items():
        for device in results.devices_of(experiment):
            title = f"{part}: {experiment}, {device}"
            records = results.of(experiment, device)
            if "dtype" in shown:
                yield Table(title, records, shown)
                continue
            for dtype in dict.fromkeys(record["dtype"] for record in records):
                of_dtype = [record for record in records if record["dtype"] == dtype]
                yield Table(f"{title}, {dtype}", of_dtype, shown)


def check_sizes(settings: object) -> None:
    """Refuse settings with a number below 1, or with an empty list; ``formats`` may be empty.

    Raises:
        ValueError: If there is such a one.
    """
    who = type(settings).__name__
    for name, value in vars(settings).items():
        if value in ([], ()) and name != "formats":
            raise InputValueError(f"{who}: {name}={value} is empty; give at least one.")
        for entry in value if isinstance(value, list) else [value]:
            for size in entry if isinstance(entry, tuple) else [entry]:
                if isinstance(size, int) and size < 1:
                    raise InputValueError(f"{who}: {name}={value} has a number below 1.")
