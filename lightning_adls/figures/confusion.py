"""Confusion matrices: which class was taken for which."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_adls.figures.canvas import figure, with_error
from lightning_adls.figures.picture import Picture
from lightning_adls.significance import standard_error

Matrix = Sequence[Sequence[int]]


def draw_confusions(
    path: str | Path,
    matrices: Mapping[str, Matrix],
    classes: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
) -> Picture:
    """Draw a matrix for each model, a panel each.

    A cell is shaded by its share of the row, and has the number and that share in it. Above is the
    accuracy, with its binomial standard error.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        matrices: By model, counts ``[class][predicted class]``.
        classes: Their names.
        title: Above the figure.
        subtitle: Below the title.
    """
    columns = min(len(matrices), 4)
    rows = -(-len(matrices) // columns)
    side = max(2.3, 0.62 * len(classes) + 1.2)
    size = (max(6.0, columns * side + 0.4), rows * side + 1.0)
    with figure(
        path, title, subtitle, panels=len(matrices), columns=columns, size=size, shared=False
    ) as axes:
        for place, (one, (name, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
            totals = [max(sum(row), 1) for row in matrix]
            shares = [[n / total for n in row] for row, total in zip(matrix, totals, strict=True)]
            one.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for y, row in enumerate(matrix):
                for x, count in enumerate(row):
                    one.text(
                        x,
                        y,
                        f"{count:,}\n{shares[y][x]:.1%}",
                        ha="center",
                        va="center",
                        fontsize=8 if len(classes) <= 4 else 6,
                        color="white" if shares[y][x] > 0.55 else "black",
                    )
            right = sum(matrix[n][n] for n in range(len(classes)))
            count = sum(map(sum, matrix))
            accuracy = right / count
            error = standard_error(accuracy, count)
            one.set_title(f"{name}\n{with_error(accuracy, error)}", fontsize=9)
            one.set_xticks(range(len(classes)), classes, fontsize=8)
            one.set_yticks(range(len(classes)), classes, fontsize=8, rotation=90, va="center")
            one.set(xlabel="predicted", ylabel="class" if place % columns == 0 else "")
    return Picture(Path(path).with_suffix(".png"))
