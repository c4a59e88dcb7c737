"""Lab 1: widths against float32, pruned models against the one they were made of."""

from collections.abc import Callable, Iterator

from lightning_adls.labs.curves import way_to_prune, way_to_quantise
from lightning_adls.labs.lab_report.comparing import (
    Model,
    compare,
    from_where_on,
    in_words,
    measured,
    points,
    sentence,
    test_of,
    warn_of_chance,
)
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    in_percent,
    say_best,
    with_errors,
)
from lightning_adls.labs.rows.steps import START, TRAINED
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row
from lightning_adls.significance import Difference, unpaired

_CHOSEN = {
    "model": ("model", ""),
    "made": ("how it was made", ""),
    **ACCURACY_COLUMNS,
    "bits_per_weight": ("bits per weight", ".2f"),
    "sparsity": ("sparsity", ".2f"),
    "size_mb": ("MB", ".2f"),
    "flips": ("answers other than float32's", "d"),
}
_STRUCTURED = {
    "removed_share": ("share removed", ".2f"),
    "untrained": ("val accuracy, not trained again", ""),
    "val": ("val accuracy", ""),
    "parameters": ("parameters", ",d"),
    "size_mb": ("MB", ".2f"),
    "speedup": ("times as fast", ".2f"),
    "speedup_p10": ("10th percentile", ".2f"),
    "speedup_p90": ("90th percentile", ".2f"),
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 1."""
    found = Content()
    quantised = [row for row in run.rows if row["method"] == "quantised"]
    pruned = [row for row in run.rows if row["target_sparsity"] is not None]
    structured = [row for row in run.rows if row["method"] == "structured"]
    starts = [row for row in run.rows if row["step"] == START]
    warning = warn_of_chance("The float32 model", starts, len(run.classes))
    found.observe(*warning, main=True)
    if quantised:
        found.tables.append(_grid("Widths", "width", "width in bits", quantised, way_to_quantise))
        _about_training(run, found, quantised)
        _about_float32(run, found, quantised)
    if pruned:
        found.tables.append(
            _grid("Sparsities", "target_sparsity", "sparsity", pruned, way_to_prune)
        )
        _about_pruning(run, found, pruned)
    if structured:
        rows = [
            {**with_errors(row), "untrained": in_percent(row, "val_accuracy_untrained")}
            for row in structured
        ]
        found.tables.append(ReportTable("Removed heads and neurons", _STRUCTURED, rows))
        for row in structured:
            _about_removing(run, found, row)
    say_best(found, run.summary.get("best", {}), {row["step"]: row for row in run.rows})
    _about_chosen(run, found)
    return found


def _model(run: StoredRun, step: str, name: str) -> Model:
    return Model(name, next(row for row in run.rows if row["step"] == step), step)


def _grid(
    title: str, x: str, x_name: str, rows: list[Row], way: Callable[[Row], str]
) -> ReportTable:
    """Validation accuracies, a row for each value of x and a column for each way."""
    ways = dict.fromkeys(way(row) for row in rows)
    cells: dict[float, Row] = {}
    for row in rows:
        cells.setdefault(row[x], {x: row[x]})[way(row)] = with_errors(row)["val"]
    columns = {x: (x_name, "g"), **{name: (name, "") for name in ways}}
    return ReportTable(
        f"{title}: validation accuracy", columns, [cells[at] for at in sorted(cells)]
    )


def _about_training(run: StoredRun, found: Content, rows: list[Row]) -> None:
    """QAT against PTQ, for each way to choose the fraction width."""
    for way, by_width in _pairs(rows):
        better: list[tuple[int, Difference]] = []
        alike: list[tuple[int, Difference]] = []
        for width, (ptq, qat) in sorted(by_width.items()):
            difference = compare(run, Model("QAT", qat, qat["step"]), Model("", ptq, ptq["step"]))
            (better if difference.real else alike).append((width, difference))
        for width, difference in better:
            name = f"QAT at {width} bits ({way})"
            found.observe(sentence(name, "PTQ", difference), main=(width, difference) == better[0])
        if alike:
            at = in_words(f"{width}" for width, _ in alike)
            largest = max((d for _, d in alike), key=lambda d: abs(d.value))
            found.observe(
                f"QAT and PTQ ({way}) are indistinguishable at {at} bits: at most "
                f"{points(largest)} {test_of(largest)}."
            )


def _pairs(rows: list[Row]) -> Iterator[tuple[str, dict[int, tuple[Row, Row]]]]:
    """By way to choose the fraction width: PTQ and QAT of each width that has both."""
    ways: dict[str, dict[int, dict[str, Row]]] = {}
    for row in rows:
        way = way_to_quantise(row).partition(", ")[2]
        ways.setdefault(way, {}).setdefault(row["width"], {})[row["training"]] = row
    for way, widths in ways.items():
        both = {w: (d["none"], d["qat"]) for w, d in widths.items() if {"none", "qat"} <= d.keys()}
        if both:
            yield way, both


def _about_float32(run: StoredRun, found: Content, rows: list[Row]) -> None:
    """From which width on nothing is lost: PTQ to the start, QAT to training as long."""
    steps = {row["step"] for row in run.rows}
    ways: dict[str, list[Row]] = {}
    for row in rows:
        ways.setdefault(way_to_quantise(row), []).append(row)
    lossless = []
    for way, members in ways.items():
        ptq = members[0]["training"] == "none"
        step, words = (START, "float32") if ptq else (TRAINED, "float32 trained as long")
        if step not in steps:
            continue
        base = _model(run, step, words)
        compared = [(r["width"], compare(run, Model(way, r, r["step"]), base)) for r in members]
        first = from_where_on((w, not d.real or d.value > 0) for w, d in compared)
        if first is None:
            worst = max(compared)[1]
            found.observe(f"{way}: below {words} even at the widest {measured(worst)}.")
            continue
        at = dict(compared)[first]
        text = f"{way}: no loss against {words} is shown from {first} bits on {measured(at)}"
        below = [(w, d) for w, d in compared if w < first]
        if below:
            width, lost = max(below)
            text += f"; at {width} bits it loses {points(lost)} {test_of(lost)}"
        found.observe(f"{text}.")
        lossless.append((first, way, words))
    if lossless:
        fewest = min(bits for bits, _, _ in lossless)
        there = [(way, words) for bits, way, words in lossless if bits == fewest]
        for against in dict.fromkeys(words for _, words in there):
            names = in_words(way for way, words in there if words == against)
            found.conclusion.append(
                f"Down to {fewest} bits no loss against {against} is shown, by {names}."
            )


def _about_pruning(run: StoredRun, found: Content, rows: list[Row]) -> None:
    ways: dict[str, list[Row]] = {}
    reached = []
    for row in rows:
        ways.setdefault(way_to_prune(row), []).append(row)
    for way, members in ways.items():
        source = _model(run, members[0]["source"], "")
        compared = [
            (row["target_sparsity"], compare(run, Model(way, row, row["step"]), source))
            for row in sorted(members, key=lambda row: row["target_sparsity"])
            if row["source"] == source.step
        ]
        lossless = from_where_on((-s, not d.real or d.value > 0) for s, d in compared)
        text = f"Pruning ({way}): "
        if lossless is None:
            text += f"a loss already at a sparsity of {compared[0][0]:g}"
        else:
            text += f"no loss is shown up to a sparsity of {-lossless:g}"
            reached.append((-lossless, way))
        lost = [(s, d) for s, d in compared if d.real and d.value < 0]
        if lost:
            sparsity, difference = lost[-1]
            text += f"; at {sparsity:g} it loses {points(difference)} {test_of(difference)}"
        found.observe(f"{text}.")
    if reached:
        most = max(sparsity for sparsity, _ in reached)
        names = in_words(way for sparsity, way in reached if sparsity == most)
        found.conclusion.append(
            f"Up to a sparsity of {most:g} no loss by pruning is shown, by {names}."
        )
    _about_methods(run, found, rows)
    _about_training_again(run, found, rows)


def _about_methods(run: StoredRun, found: Content, rows: list[Row]) -> None:
    """By magnitude against random, at each sparsity."""
    methods = {(r["method"], r["schedule"], r["target_sparsity"], r["source"]): r for r in rows}
    for schedule in dict.fromkeys(row["schedule"] for row in rows):
        sure = []
        for (method, other, sparsity, source), row in methods.items():
            rival = methods.get(("random", schedule, sparsity, source))
            if method == "l1-norm" and other == schedule and rival is not None:
                first, second = Model("", row, row["step"]), Model("", rival, rival["step"])
                sure.append((sparsity, compare(run, first, second)))
        if sure:
            better = [s for s, d in sure if d.real and d.value > 0]
            sparsity, difference = max(sure, key=lambda one: one[1].value)
            where = f"{len(better) or 'none'} of {len(sure)} sparsities"
            found.observe(
                f"l1-norm beats random pruning ({schedule.replace('_', ' ')}) at {where}; the "
                f"largest difference is at {sparsity:g} {measured(difference)}."
            )


def _about_training_again(run: StoredRun, found: Content, rows: list[Row]) -> None:
    again = [row for row in rows if row["val_accuracy_untrained"] is not None]
    if again:
        count = run.summary["rows"]["val"]
        most = max(again, key=lambda row: row["val_accuracy"] - row["val_accuracy_untrained"])
        gain = unpaired(most["val_accuracy"], most["val_accuracy_untrained"], count)
        at = f"after {most['method']} pruning to a sparsity of {most['target_sparsity']:g}"
        found.observe(
            f"Training again gains most {at}: {points(gain)} {test_of(gain)}."
            if gain.real
            else f"Training again shows no gain; the most is {at} {measured(gain)}."
        )


def _about_removing(run: StoredRun, found: Content, row: Row) -> None:
    source = _model(run, row["source"], "the whole model")
    name = f"The model without {row['removed_share']:.0%} of its heads and neurons"
    difference = compare(run, Model(name, row, row["step"]), source)
    share = 1 - row["parameters"] / source.row["parameters"]
    sure = "more than chance" if row["speedup_p10"] > 1 else "within its spread"
    found.observe(
        sentence(name, source.name, difference),
        f"It has {share:.1%} fewer parameters and is {row['speedup']:.2f} times as fast "
        f"({row['speedup_p10']:.2f} to {row['speedup_p90']:.2f}, 10th to 90th percentile: {sure}).",
    )


def _about_chosen(run: StoredRun, found: Content) -> None:
    if not run.results:
        return
    rows = [
        {"model": name, **with_errors(row), "made": _made(row)} for name, row in run.results.items()
    ]
    found.tables.append(ReportTable("Chosen on validation, tested once", _CHOSEN, rows))
    models = {name: Model(name, row, row["step"]) for name, row in run.results.items()}
    for name, row in run.results.items():
        if name != "float32" and row["test_standard_error"] is not None:
            difference = compare(run, models[name], models["float32"], "test")
            text = sentence(f"The {name} model", "float32", difference, "on the test rows")
            found.observe(text, main=True)
        sparsity = f", {row['sparsity']:.0%} of its weights zero" if row["sparsity"] else ""
        test = with_errors(row)["test"]
        made = f" ({how})" if (how := _made(row)) else ""
        found.takeaways.append(
            f"{name}{made}: {test} on test, {row['bits_per_weight']:.3g} bits per weight, "
            f"{row['size_mb']:.2f} MB{sparsity}."
        )


def _made(row: Row) -> str | None:
    """How a chosen model was made, in words; None for what was only fine-tuned."""
    if row["method"] == "float32":
        return None
    if row["method"] == "quantised":
        return f"{way_to_quantise(row)}, {row['width']} bits"
    if row["method"] == "structured":
        return f"{row['removed_share']:.0%} of its heads and neurons removed"
    return f"{way_to_prune(row)}, sparsity {row['target_sparsity']:g}"
