"""Lab 4: the figures of its parts, from the records alone."""

from lightning_adls.bench import StoredResults
from lightning_adls.bench.experiments import Attention, Compiling, Packing, Part
from lightning_adls.labs.drawing.drawn import Figure
from lightning_adls.labs.stored import StoredRun


def parts_of(run: StoredRun) -> tuple[StoredResults, list[Part]]:
    """The records of a run, and the parts that measured them."""
    results = StoredResults(run.folder, run.summary["results"], run.summary)
    measured = {record["part"] for record in results.records}
    parts: list[Part] = [
        Compiling(**run.config["compiling"]),
        Attention(**run.config["attention"]),
        Packing(**run.config["mxint8"]),
    ]
    return results, [part for part in parts if part.name in measured]


def draw(run: StoredRun) -> list[Figure]:
    """The figures of each part, those of devices that are missing left out."""
    results, parts = parts_of(run)
    for part in parts:
        part.draw(results)
    return [Figure(path, f"{title}.") for title, path in results.drawn]
