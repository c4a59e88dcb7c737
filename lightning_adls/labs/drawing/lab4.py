"""Lab 4: the figures of its parts, from the records alone."""

from lightning_adls.bench import StoredResults
from lightning_adls.bench.experiments import Attention, Compiling, Exporting, Packing, Part
from lightning_adls.labs.drawing.drawn import Figure
from lightning_adls.labs.stored import StoredRun

_SECTIONS: dict[str, type[Compiling | Attention | Packing | Exporting]] = {
    "compiling": Compiling,
    "attention": Attention,
    "mxint8": Packing,
    "export": Exporting,
}


def parts_of(run: StoredRun) -> tuple[StoredResults, list[Part]]:
    """The records of a run, and the parts that measured them."""
    results = StoredResults(run.folder, run.summary["results"], run.summary)
    measured = {record["part"] for record in results.records}
    parts: list[Part] = [
        kind(**run.config[section]) for section, kind in _SECTIONS.items() if kind.name in measured
    ]
    return results, parts


def draw(run: StoredRun) -> list[Figure]:
    """The figures of each part, those of devices that are missing left out."""
    results, parts = parts_of(run)
    for part in parts:
        part.draw(results)
    return [Figure(path, f"{title}.") for title, path in results.drawn]
