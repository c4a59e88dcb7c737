"""What a lab of your own leaves beside its checkpoints: its table, its summary, its figures."""

from lightning_adls import report
from lightning_adls.labs.about import about
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.rows.steps import own_lab
from lightning_adls.labs.stored import StoredRun


def write_results(run: ModelRun) -> None:
    """Write ``results.csv``, a row for each step that left a model, ``summary.json`` and figures.

    After it ``make figures`` and ``make report`` know the run.

    Args:
        run: With the steps so far.
    """
    rows = own_lab(run)
    report.write_csv(run.folder / "results.csv", rows)
    tested = {row["step"]: row for row in rows if row["test_accuracy"] is not None}
    summary = {**about(run, run.task), "results": tested}
    report.write_json(run.folder / "summary.json", summary)
    draw(StoredRun.read(run.folder))
