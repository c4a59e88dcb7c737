"""Lab 4: fused against naive attention, compiled against eager, packing, what exports answer."""

from lightning_adls.bench import StoredResults
from lightning_adls.labs.drawing.lab4 import parts_of
from lightning_adls.labs.lab_report.content import Content, ReportTable
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row

# Headers that are short for the screen, in full.
_HEADERS = {
    "comp. s": "s to compile",
    "ms": "median ms",
    "times": "times as fast as eager",
    "even": "pays off after so many steps",
    "error": "relative error",
    "1st ms": "first call, ms",
    "later ms": "later calls, ms",
    "multiple": "padded to multiples of",
    "logits": "largest difference of a logit",
    "p": "p of McNemar's test",
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 4."""
    results, parts = parts_of(run)
    found = Content()
    for part in parts:
        for title, records, columns in part.tables(results):
            full = {key: (_HEADERS.get(name, name), spec) for key, (name, spec) in columns.items()}
            found.tables.append(ReportTable(title, full, records))
    for experiment in ("forward", "forward+backward"):
        _about_attention(results, found, experiment)
    _about_compiling(results, found)
    for part in parts:
        explained = [line for line in part.explain(results).split("\n") if line]
        found.observe(*explained)
        found.takeaways += explained
    found.observe(*results.failures(*(part.name for part in parts)))
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
                text = _faster(name, record, eager, "eager", record["speedup_over_eager"])
                steps = record["break_even_steps"]
                if _apart(record, eager) and steps is not None:
                    text = f"{text[:-1]}; compiling pays off after {steps:,.0f} steps."
                found.observe(text, main=record["target"] == "BERT")


def _is_eager_of(record: Row, other: Row) -> bool:
    same = all(record[key] == other[key] for key in ("target", "device", "dtype"))
    return same and other is not record and other["compile_ms"] is None


def _apart(record: Row, other: Row) -> bool:
    """Whether the spreads of both, from the 10th to the 90th percentile, do not overlap."""
    return bool(record["p90_ms"] < other["p10_ms"] or other["p90_ms"] < record["p10_ms"])


def _faster(name: str, record: Row, other: Row, words: str, in_turn: float | None = None) -> str:
    """How many times faster, and whether the spreads of both are apart.

    Args:
        name: Of what was measured.
        record: Of it.
        other: What it is compared with.
        words: The name of that.
        in_turn: The median over the rounds, in which both were measured in turn, as tables have
            it; by default the medians of both are divided.
    """
    ratio = other["median_ms"] / record["median_ms"] if in_turn is None else in_turn
    sure = (
        "the 10th to 90th percentiles are apart"
        if _apart(record, other)
        else "the 10th to 90th percentiles overlap: no difference is shown"
    )
    return (
        f"{name[0].upper()}{name[1:]}: {record['median_ms']:.3g} ms against "
        f"{other['median_ms']:.3g} ms of {words}, {ratio:.2f} times as fast; {sure}."
    )
