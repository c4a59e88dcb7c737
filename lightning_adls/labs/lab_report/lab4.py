"""Lab 4: fused against naive attention, compiled against eager, what packing saves."""

from lightning_adls.bench import StoredResults
from lightning_adls.labs.drawing.lab4 import parts_of
from lightning_adls.labs.lab_report.content import Content, ReportTable
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 4."""
    results, parts = parts_of(run)
    found = Content()
    for part in parts:
        for title, records, columns in part.tables(results):
            found.tables.append(ReportTable(title, columns, records))
    for experiment in ("forward", "forward+backward"):
        _about_attention(results, found, experiment)
    _about_compiling(results, found)
    for part in parts:
        found.observe(*filter(None, part.explain(results).split("\n")))
        found.observe(*results.failures(part.name))
    found.takeaways += found.conclusion
    return found


def _about_attention(results: StoredResults, found: Content, experiment: str) -> None:
    """At the greatest length, without a mask: torch's own choice against the formula."""
    for device in results.devices_of(experiment):
        records = [r for r in results.of(experiment, device) if r["mask"] == "none"]
        if not records:
            continue
        tokens = max(record["tokens"] for record in records)
        at = {(r["target"], r["dtype"]): r for r in records if r["tokens"] == tokens}
        for (target, dtype), record in at.items():
            if target == "sdpa" and ("naive", dtype) in at:
                name = f"fused attention, {experiment}, {tokens} tokens, {dtype}, {device}"
                found.observe(_faster(name, record, at["naive", dtype], "the formula"), main=True)


def _about_compiling(results: StoredResults, found: Content) -> None:
    for experiment in ("steady", "training"):
        records = results.of(experiment)
        for record in records:
            eager = next((r for r in records if _is_eager_of(record, r)), None)
            if eager is not None and record["compile_ms"] is not None:
                name = f"{record['target']}, {record['variant']}, {experiment}, {record['device']}"
                text = _faster(name, record, eager, "eager")
                steps = record["break_even_steps"]
                pays = "never pays" if steps is None else f"pays after {steps:,.0f} steps"
                found.observe(f"{text[:-1]}; compiling {pays}.", main=record["target"] == "BERT")


def _is_eager_of(record: Row, other: Row) -> bool:
    same = all(record[key] == other[key] for key in ("target", "device", "dtype"))
    return same and other is not record and other["compile_ms"] is None


def _faster(name: str, record: Row, other: Row, words: str) -> str:
    """How many times faster, and whether the spreads of both are apart."""
    ratio = other["median_ms"] / record["median_ms"]
    apart = record["p90_ms"] < other["p10_ms"] or other["p90_ms"] < record["p10_ms"]
    sure = (
        "the 10th to 90th percentiles are apart"
        if apart
        else "the 10th to 90th percentiles overlap: no difference is shown"
    )
    return (
        f"{name[0].upper()}{name[1:]}: {record['median_ms']:.3g} ms against "
        f"{other['median_ms']:.3g} ms of {words}, {ratio:.2f} times as fast; {sure}."
    )
