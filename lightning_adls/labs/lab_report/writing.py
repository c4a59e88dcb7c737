"""From runs to the files of their report."""

from collections.abc import Sequence
from pathlib import Path

from lightning_adls.errors import InputValueError
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.folders import LOGS
from lightning_adls.labs.lab_report import lab0, lab1, lab2, lab3, lab4, own_lab, side_by_side
from lightning_adls.labs.lab_report.markdown import to_markdown
from lightning_adls.labs.lab_report.page import to_html
from lightning_adls.labs.lab_report.room import written
from lightning_adls.labs.stored import StoredRun

_DESCRIBE = {
    "lab0": lab0.describe,
    "lab1": lab1.describe,
    "lab2": lab2.describe,
    "lab3": lab3.describe,
    "lab4": lab4.describe,
}


def write_report(runs: Sequence[StoredRun], folder: Path | None = None) -> list[Path]:
    """Draw the figures of the runs, and write their report.

    What somebody wrote between the marks of an earlier report stays.

    Args:
        runs: Finished runs, of one lab or of several.
        folder: Where; by default that of the run, or a folder of their names in
            ``lightning_logs/reports``.

    Returns:
        ``report.md`` and ``report.html``.

    Raises:
        InputValueError: If a run is not finished, or the file is not ours to replace.
    """
    for run in runs:
        if not run.summary:
            raise InputValueError(
                f"report: {run.folder} has no summary.json: its lab has not finished; the command "
                "that began it goes on."
            )
    if folder is None:
        names = "+".join(f"{run.lab}-{run.name.replace('/', '-')}" for run in runs)
        folder = runs[0].folder if len(runs) == 1 else LOGS / "reports" / names
    path, page = folder / "report.md", folder / "report.html"
    before = written(path)
    folder.mkdir(parents=True, exist_ok=True)
    contents = [_DESCRIBE.get(run.lab, own_lab.describe)(run) for run in runs]
    figures = [draw(run) for run in runs]
    text = to_markdown(runs, contents, figures, side_by_side.describe(runs), folder, before)
    path.write_text(text, encoding="utf-8")
    page.write_text(to_html(text, folder), encoding="utf-8")
    return [path, page]
