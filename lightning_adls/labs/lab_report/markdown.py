"""The report as Markdown."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_adls.labs.drawing import Figure
from lightning_adls.labs.lab_report.content import Content, ReportTable
from lightning_adls.labs.lab_report.references import TESTS, references
from lightning_adls.labs.lab_report.room import MADE_BY, room
from lightning_adls.labs.lab_report.setup import setup
from lightning_adls.labs.stored import StoredRun

TITLES = {
    "lab0": "Lab 0: fine-tuning, in full and with low-rank adapters",
    "lab1": "Lab 1: quantisation and pruning",
    "lab2": "Lab 2: architecture search",
    "lab3": "Lab 3: mixed-precision search",
    "lab4": "Lab 4: performance",
}
_READING = (
    "Accuracies stand with their binomial standard errors, differences with theirs. A difference "
    "is called one where its test gives p < 0.05: *paired* is McNemar's exact test on the same "
    "rows, where the predictions of both models are stored; *unpaired* is Agresti and Caffo's, "
    "from the accuracies alone, and sees less. The tests are not corrected for their number: of "
    "twenty comparisons of equals, one seems different. The best of many on validation is too "
    "high by its selection; the test rows were read once, for models that were chosen before."
)


def to_markdown(
    runs: Sequence[StoredRun],
    contents: Sequence[Content],
    figures: Sequence[Sequence[Figure]],
    between: Content,
    folder: Path,
    before: dict[str, str],
) -> str:
    """Write the report.

    Args:
        runs: What it is about.
        contents: What the numbers of each say.
        figures: Those of each.
        between: What they say of the runs together, if there are several.
        folder: Where the report will lie, to which figures are given.
        before: What was written into an earlier one.
    """
    names = [f"{run.lab}/{run.name}" for run in runs]
    single = len(runs) == 1
    one_lab = len({run.lab for run in runs}) == 1
    title = TITLES.get(runs[0].lab, runs[0].lab) if one_lab else "Lab report"
    lines = [MADE_BY, "", f"# {title}", ""]
    lines += ["## Setup", "", *_setup(runs), ""]
    lines += ["## Results", "", _READING if runs[0].lab != "lab4" or not single else "", ""]
    for table in between.tables:
        lines += _table(table, "###")
    for name, content in zip(names, contents, strict=True):
        lines += [] if single else [f"### Tables of {name}", ""]
        for table in content.tables:
            lines += _table(table, "###" if single else "####")
    lines += ["### Figures", "", *_figures(names, figures, folder)]
    lines += ["## Observations", ""]
    lines += [*_bullets(between.observations)]
    for name, content in zip(names, contents, strict=True):
        lines += [] if single else [f"### {name}", ""]
        lines += _bullets(content.observations)
    for heading, key in (("Conclusion", "conclusion"), ("Key takeaways", "takeaways")):
        lines += [f"## {heading}", ""]
        facts = list(getattr(between, key))
        for name, content in zip(names, contents, strict=True):
            prefix = "" if single else f"{name}: "
            facts += [f"{prefix}{fact}" for fact in getattr(content, key)]
        lines += _bullets(facts)
        lines += room(heading.lower(), before)
    lines += ["## References", ""]
    every = dict.fromkeys(source for run in runs for source in references(run))
    tests = TESTS if any(run.lab != "lab4" for run in runs) else ()
    lines += [f"- {source}" for source in (*every, *tests)]  # with titles in italics
    return "\n".join(lines).rstrip() + "\n"


def _setup(runs: Sequence[StoredRun]) -> list[str]:
    """A row for each thing and a column for each run; what differs is bold."""
    cells = []
    for columns in zip(*map(setup, runs), strict=True):
        for name in dict.fromkeys(name for lines in columns for name in lines):
            values = [lines.get(name, "-") for lines in columns]
            differs = len(set(values)) > 1 and "-" not in values and name != "Command"
            cells.append([name, *(f"**{escape(v)}**" if differs else escape(v) for v in values)])
    return _grid(["run", *(f"{run.lab}/{run.name}" for run in runs)], cells)


def _table(table: ReportTable, level: str) -> list[str]:
    header = [name for name, _ in table.columns.values()]
    cells = [[escape(cell) for cell in row] for row in table.cells]
    columns = zip(*table.cells, strict=True) if cells else [()] * len(header)
    return [f"{level} {table.title}", "", *_grid(header, cells, map(_numbers, columns)), ""]


def _numbers(column: Sequence[str]) -> bool:
    """Whether all cells of a column are numbers, which stand below each other."""
    return all(cell == "-" or cell.lstrip("-+")[:1].isdigit() for cell in column)


def _grid(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[bool] = ()
) -> list[str]:
    lines = ["---:" if each else "---" for each in right] or ["---"] * len(header)
    return [_row(header), _row(lines), *(_row(row) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _figures(names: Sequence[str], figures: Sequence[Sequence[Figure]], folder: Path) -> list[str]:
    """A paragraph for each figure: those of several runs side by side, then what they show."""
    kinds: dict[str, dict[str, Figure]] = {}
    for name, of_run in zip(names, figures, strict=True):
        for figure in of_run:
            kinds.setdefault(figure.path.stem, {})[name] = figure
    lines = []
    for found in kinds.values():
        images = []
        for name, figure in found.items():
            words = escape(figure.caption if len(names) == 1 else f"{name}: {figure.caption}")
            path = Path(os.path.relpath(figure.path, folder)).as_posix()
            images.append(f"![{words}](<{path}>)")
        of_caption: dict[str, list[str]] = {}
        for name, figure in found.items():
            of_caption.setdefault(figure.caption, []).append(name)
        words = " ".join(
            caption if len(names) == 1 else f"{', '.join(runs)}: {caption}"
            for caption, runs in of_caption.items()
        )
        lines += ["\n".join(images), "", f"*{escape(words)}*", ""]
    return lines


def _bullets(statements: Iterable[str]) -> list[str]:
    lines = [f"- {escape(statement)}" for statement in statements]
    return [*lines, ""] if lines else []


def escape(text: str) -> str:
    """Text in which nothing is taken for HTML or emphasis; code stays as it is."""
    if text.startswith("`"):
        return text
    return re.sub(r"[*\\]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])", r"\\\g<0>", text)
