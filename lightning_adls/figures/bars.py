"""Groups of bars."""

from collections.abc import Mapping
from pathlib import Path

from lightning_adls.figures.canvas import figure, plain_log, text_width
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import styles

MOST_NUMBERS = 40
_FONT = 8  # points
_ACROSS = 6.0  # inches, what the legend leaves for the bars


def draw_bars(
    path: str | Path,
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    y_label: str,
    subtitle: str = "",
    log: bool = False,
) -> Picture:
    """Draw groups of bars, each with its height above it, unless there are very many.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        groups: By the name of the group below its bars, heights by the name of the bar. Bars of the
            same name have the same colour; a group may lack some.
        title: Above the figure.
        y_label: Beside it.
        subtitle: Below the title.
        log: Logarithmic heights, for those that differ by orders of magnitude.
    """
    looks = styles(name for bars in groups.values() for name in bars)
    width = 0.8 / max(len(looks), 1)
    with figure(path, title, subtitle) as (axes,):
        for place, (name, look) in enumerate(looks.items()):
            offset = (place - (len(looks) - 1) / 2) * width
            heights = {n: bars[name] for n, bars in enumerate(groups.values()) if name in bars}
            drawn = axes.bar(
                [n + offset for n in heights],
                list(heights.values()),
                width,
                label=name,
                color=look.color,
                # Those of a second turn through the colours are hatched.
                hatch=None if look.line == "-" else "///",
                edgecolor="white",
                linewidth=0.5,
            )
            # Upright, the numbers of narrow bars do not overlap; those of very narrow ones do.
            rotation = 90 if len(looks) * len(groups) > 12 else 0
            if len(looks) * len(groups) <= MOST_NUMBERS:
                axes.bar_label(drawn, fmt=_short, fontsize=7, padding=2, rotation=rotation)
        if log:
            axes.set_yscale("log")
            # A logarithmic bar has no foot: it begins well below the lowest.
            every = [height for bars in groups.values() for height in bars.values()]
            # Above the highest there is room for its number.
            axes.set_ylim(min(every) / 2, 1.3 * max(every) * (max(every) / min(every)) ** 0.12)
            plain_log(axes.yaxis)
        else:
            axes.margins(y=0.12)
        slanted = text_width(groups, _FONT) > _ACROSS / len(groups)
        axes.set_xticks(range(len(groups)), list(groups), fontsize=_FONT)
        if slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=30, ha="right", rotation_mode="anchor")
        axes.set(ylabel=y_label)
        axes.grid(alpha=0.3, axis="y")
    return Picture(Path(path).with_suffix(".png"))


def _short(height: float) -> str:
    return f"{height:,.0f}" if height >= 100 else f"{height:.3g}"
