"""Lab 0: how the trainings went, and what the models take for what."""

from lightning_adls.figures import Point, draw_points
from lightning_adls.labs.drawing.drawn import Figure, chance, confusions
from lightning_adls.labs.stored import StoredRun

# The models, and their names in figures and tables.
NAMES = {"start": "start", "full": "all weights", "lora": "LoRA", "merged": "LoRA, merged"}


def draw(run: StoredRun) -> list[Figure]:
    """Validation accuracy over the training steps; confusion matrices."""
    rows = {row["model"]: row for row in run.rows}
    start = rows["start"]
    curves = {}
    for name in ("full", "lora"):
        if name in rows:
            first = Point(0, start["val_accuracy"], start["val_standard_error"])
            curves[NAMES[name]] = [first, *(Point(*point) for point in rows[name]["curve"])]
    path = run.folder / "curves.png"
    draw_points(
        path,
        curves,
        title="Fine-tuning all weights, and low-rank adapters (LoRA) alone",
        x_label="training steps",
        y_label="validation accuracy",
        subtitle=run.subtitle,
        compare=chance(run),
    )
    caption = "Validation accuracy while training; bars are binomial standard errors."
    steps = {NAMES[name]: name for name in ("full", "merged")}
    return [Figure(path, caption), *confusions(run, steps)]
