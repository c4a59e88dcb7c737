"""What the results of the part `compile` show: tables, an explanation, figures."""

from collections.abc import Iterator

from lightning_adls.bench.experiments.part import Columns, Table, tables_of
from lightning_adls.bench.records import Record
from lightning_adls.bench.results import StoredResults
from lightning_adls.bench.workloads.variants import Variant

_STEPS: Columns = {
    "target": ("target", ""),
    "run": ("run", ""),
    "compile_s": ("comp. s", ".1f"),
    "step_ms": ("ms", ".1f"),
    "speedup_over_eager": ("times", ".2f"),
    "break_even": ("even", ""),
    "max_relative_error": ("error", ".0e"),
}
COLUMNS: dict[str, Columns] = {
    "few calls": {
        "run": ("run", ""),
        "first_call_ms": ("1st ms", ",.0f"),
        "mean_ms": ("mean ms", ",.1f"),
    },
    "steady": _STEPS,
    "training": _STEPS,
    "lengths": {
        "run": ("run", ""),
        "padded_to": ("multiple", "d"),
        "graphs": ("graphs", "d"),
        "padding": ("padding", ".0%"),
        "first_pass_ms": ("1st ms", ",.0f"),
        "later_pass_ms": ("later ms", ".1f"),
    },
}


def tables(results: StoredResults, part: str) -> Iterator[Table]:
    """A table per experiment, device and data type."""
    for table in tables_of(results, part, COLUMNS):
        yield table._replace(records=[_in_few_words(record) for record in table.records])


def _in_few_words(record: Record) -> Record:
    """A record with what a table says in fewer words than the files."""
    how = str(record["variant"]).removeprefix("compiled ").removesuffix(f" {record['dtype']}")
    words: Record = {"run": how, "step_ms": record["median_ms"]}
    if record["compile_ms"] is not None:
        steps = record["break_even_steps"]
        words["break_even"] = "never" if steps is None else f"{steps:,.0f}"
        words["compile_s"] = record["compile_ms"] / 1e3
    return {**record, **words}


def explain(results: StoredResults) -> str:
    """Why the mean of few calls and the median of steady calls differ."""
    lines = []
    steady = {(r["device"], r["target"], r["variant"]): r for r in results.of("steady")}
    few = {(r["device"], r["variant"]): r for r in results.of("few calls")}
    for (device, variant), wrong in few.items():
        eager = few.get((device, str(Variant(dtype=wrong["dtype"]))))
        right = steady.get((device, "BERT", variant))
        if right is None or eager is None or right["compile_ms"] is None:
            continue
        lines.append(
            f"{variant} on {device}: by the mean of the first calls "
            f"{eager['mean_ms'] / wrong['mean_ms']:.3g} times as fast as eager, by the median of "
            f"steady ones {right['speedup_over_eager']:.3g} times. The first call took "
            f"{wrong['first_call_ms']:,.0f} ms, to start the compiler and to compile, which alone "
            f"takes {right['compile_ms']:,.0f} ms; a steady one takes {right['median_ms']:.3g} ms."
        )
    if results.of("lengths"):
        lines.append(
            "Static code is compiled for each length anew. Padding makes fewer lengths, and more "
            "tokens."
        )
    return "\n".join(lines)


def draw(results: StoredResults) -> None:
    """Bars of the wrong and the right measurement and of the graphs; the mean over n calls."""
    for device in results.devices_of("steady"):
        _draw_times(results, device)
        curves = {
            record["variant"]: [
                (n, (record["first_call_ms"] + (n - 1) * record["median_ms"]) / n)
                for n in (10**power for power in range(7))
            ]
            for record in results.of("steady", device)
            if record["target"] == "BERT"
        }
        y = "mean ms, the first call included"
        title = f"Mean time of a call over the number of calls, the first included, on {device}"
        results.lines(f"compile mean {device}", title, curves, "calls", y, log=True)
        graphs: dict[str, dict[str, float]] = {}
        for record in results.of("lengths", device):
            bar = f"multiples of {record['padded_to']}"
            graphs.setdefault(record["variant"], {})[bar] = record["graphs"]
        title = f"Graphs that are compiled for texts of changing lengths, on {device}"
        results.bars(f"compile lengths {device}", title, graphs, "graphs compiled")


def _draw_times(results: StoredResults, device: str) -> None:
    times: dict[str, dict[str, float]] = {}
    for record in results.of("few calls", device):
        times.setdefault("BERT,\nfirst calls", {})[record["variant"]] = record["mean_ms"]
    for experiment, note in (("steady", ""), ("training", ",\ntraining")):
        for record in results.of(experiment, device):
            group = str(record["target"]).replace("(", "\n(") + note
            times.setdefault(group, {})[record["variant"]] = record["median_ms"]
    title = f"Eager and compiled on {device}: mean of the first calls, medians of steady calls"
    results.bars(f"compile {device}", title, times, "ms per call", log=True)
