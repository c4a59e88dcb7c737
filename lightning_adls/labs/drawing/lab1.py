"""Lab 1: accuracy over width and over sparsity, accuracy over bits, formats, confusions."""

from lightning_adls.figures import Candidate, Levels, draw_format_map, draw_front, draw_points
from lightning_adls.labs.curves import by_sparsity, by_width, way_to_quantise
from lightning_adls.labs.drawing.drawn import OF_THE_FRONT, Figure, chance, confusions, level
from lightning_adls.labs.rows.steps import START, TRAINED
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row

Y = "validation accuracy"


def draw(run: StoredRun) -> list[Figure]:
    """Every figure that the steps so far give."""
    quantised = [row for row in run.rows if row["method"] == "quantised"]
    found = []
    if quantised:
        found += [_widths(run), _front(run, quantised)]
    best = run.results.get("quantised")
    if best is not None:
        found += [*_formats(run, best), *_sparsities(run, best)]
    steps = {name: row["step"] for name, row in run.results.items()}
    return [*found, *confusions(run, steps)]


def _widths(run: StoredRun) -> Figure:
    path = run.folder / "widths.png"
    draw_points(
        path,
        by_width(run.rows),
        title="Fixed point: validation accuracy by width",
        x_label="width of the fixed-point numbers in bits",
        y_label=Y,
        subtitle=run.subtitle,
        compare={**_float32(run), **chance(run)},
    )
    caption = (
        "Validation accuracy over the width, without training (PTQ) and with it (QAT). Half: half "
        "of the bits are behind the point; calibrated: as many as fit each tensor; learned: the "
        "step size is trained. Bars are binomial standard errors."
    )
    return Figure(path, caption)


def _float32(run: StoredRun) -> Levels:
    """The levels of full precision: the start, and trained on as long as QAT trains."""
    floats = {row["step"]: level(row) for row in run.rows if row["method"] == "float32"}
    names = {START: "float32", TRAINED: "float32, trained as long"}
    return {name: floats[step] for step, name in names.items() if step in floats}


def _sparsities(run: StoredRun, best: Row) -> list[Figure]:
    curves = by_sparsity(run.rows, best["step"])
    if not curves:
        return []
    words = f"{way_to_quantise(best)}, {best['width']} bits"
    path = run.folder / "sparsities.png"
    draw_points(
        path,
        curves,
        title=f"Pruning the best quantised model ({words}): validation accuracy by sparsity",
        x_label="share of weights set to zero",
        y_label=Y,
        subtitle=run.subtitle,
        compare={"not pruned": level(best), **chance(run)},
    )
    caption = (
        f"Validation accuracy of the best quantised model ({words}) over the share of weights that "
        "are pruned; bars are binomial standard errors."
    )
    return [Figure(path, caption)]


def _front(run: StoredRun, quantised: list[Row]) -> Figure:
    path = run.folder / "front.png"
    draw_front(
        path,
        [
            Candidate(
                way_to_quantise(r), r["bits_per_weight"], r["val_accuracy"], r["val_standard_error"]
            )
            for r in quantised
        ],
        title="Validation accuracy over bits per weight",
        x_label="bits per weight",
        y_label=Y,
        subtitle=run.subtitle,
        compare={**_float32(run), **chance(run)},
    )
    return Figure(path, f"Every quantised model, {OF_THE_FRONT}")


def _formats(run: StoredRun, best: Row) -> list[Figure]:
    recipes = [
        transform["init_args"]["layers"]
        for transform in best["recipe"]
        if transform["class_path"].endswith(".Quantize")
    ]
    if not recipes:
        return []
    path = run.folder / "formats.png"
    words = f"{way_to_quantise(best)}, {best['width']} bits"
    title = f"Number formats of the best quantised model: {words}"
    formats = {layer: by_tensor(spec) for layer, spec in recipes[0].items()}
    draw_format_map(path, formats, title=title, subtitle=run.subtitle)
    return [Figure(path, "The number format of each tensor of each layer.")]


def by_tensor(spec: object) -> dict[str, str | None]:
    """The formats of input, weight and bias, as a recipe writes them: one stands for all."""
    if isinstance(spec, dict):
        return spec
    return dict.fromkeys(("input", "weight", "bias"), None if spec is None else str(spec))
