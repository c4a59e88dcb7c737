"""A heat map of scores: a row for each layer, a column for each format."""

from collections.abc import Mapping
from pathlib import Path

from lightning_adls.figures.canvas import figure, text_width
from lightning_adls.figures.maps import in_short, short_layer
from lightning_adls.figures.picture import Picture

_FONT = 7.5  # points


def draw_heat_map(
    path: str | Path,
    scores: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    subtitle: str = "",
    label: str = "score",
) -> Picture:
    """Draw scores on a logarithmic scale of colours, dark where they are high.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        scores: By layer, a number for each format in text form, 0 or above. 0 has the colour of the
            lowest; where there is none the place stays white.
        title: Above the figure.
        subtitle: Below the title.
        label: What the colours are.
    """
    import numpy as np
    from matplotlib.colors import LogNorm

    formats = list(dict.fromkeys(text for row in scores.values() for text in row))
    values = np.array([[row.get(text, np.nan) for text in formats] for row in scores.values()])
    above = values[values > 0]
    low, high = (above.min(), above.max()) if above.size else (1e-12, 1.0)
    columns, rows = list(map(in_short, formats)), list(map(short_layer, scores))
    left, below = text_width(rows, _FONT), text_width(columns, _FONT)
    size = (2.0 + left + 0.3 * max(len(formats), 12), 1.2 + below + 0.24 * len(scores))
    with figure(path, title, subtitle, size=size) as (axes,):
        norm = LogNorm(low, max(high, low * 1.001))
        shown = np.where(values == 0, low, values)
        image = axes.imshow(shown, cmap="Blues", norm=norm, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=_FONT)
        axes.set_yticks(range(len(rows)), rows, fontsize=_FONT)
        axes.tick_params(length=0)
        axes.figure.colorbar(image, ax=axes, label=label)
    return Picture(Path(path).with_suffix(".png"))
