"""What a lab shows in TensorBoard beside the curves of its trainings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.events import Layout, Session, markdown, write_run
from lightning_adls.formats import NumberFormat
from lightning_adls.labs.tables import cell
from lightning_adls.layers import QuantizedLayer
from lightning_adls.report import Curve, Row
from lightning_adls.search import (
    FRONTS,
    HYPERVOLUME,
    RUNNING_BEST,
    TRIALS_PER_HOUR,
    VALUE,
    TensorBoardRuns,
)

# Of more than 40 runs TensorBoard shows none before it is told which: this name finds the few that
# tell what a lab found, among those of all its trials.
OVERVIEW = "overview"

_BATCHES = 4


@dataclass(frozen=True)
class TensorBoard:
    """What a lab writes for TensorBoard, in its run's folder.

    The run ``overview`` holds the figures, the tables and the layout of CUSTOM SCALARS; what that
    draws lies below it.

    Args:
        histograms: Whether the rounded weights of the best models are shown, a histogram for each
            layer, and what share of weights and inputs lies outside of what a format can represent.
    """

    histograms: bool = False

    def listener(
        self, folder: Path, place: str, cost: str = "bits_per_weight", chance: float = 0.0
    ) -> TensorBoardRuns:
        """Shows searches while they run; see there.

        Args:
            folder: Of the lab's run.
            place: See :class:`TensorBoardRuns`.
            cost: See :class:`TensorBoardRuns`.
            chance: See :class:`TensorBoardRuns`.
        """
        return TensorBoardRuns(place, cost, folder / OVERVIEW, chance)

    def write_page(
        self,
        folder: Path,
        layout: Layout,
        tables: Mapping[str, Iterable[Row]] | None = None,
        recipes: Mapping[str, str | Path] | None = None,
    ) -> None:
        """Write the lab's figures (PNG files in its folder), tables and recipes.

        Args:
            folder: Of the lab's run.
            layout: What CUSTOM SCALARS draws.
            tables: Rows by the name of the table.
            recipes: By name, files of YAML in the folder.
        """
        texts = {name: markdown(list(rows)) for name, rows in (tables or {}).items()}
        for name, file in (recipes or {}).items():
            yaml = (folder / file).read_text(encoding="utf-8")
            texts[f"recipe/{name}"] = f"```\n{yaml}\n```"
        images = {f"figure/{path.stem}": path for path in sorted(folder.glob("*.png"))}
        write_run(folder / OVERVIEW, images=images, texts=texts, layout=layout)


def search_layout(title: str, cost: str = "bits_per_weight", minimises: bool = False) -> Layout:
    """The first page of a search.

    Args:
        title: Of the page.
        cost: Of the front.
        minimises: Whether costs are objectives, so that there are hypervolumes.
    """
    charts = {
        "best value so far, over trials": [RUNNING_BEST],
        "best value over cost (steps: see the tag)": [FRONTS[cost]],
        "trials per hour": [TRIALS_PER_HOUR],
        "value of each trial": [VALUE],
    }
    if minimises:
        charts["hypervolume (cost times value) of the trials so far"] = [HYPERVOLUME]
    return {title: charts}


def shown(rows: Iterable[Row], columns: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Rows as a table on the screen has them; see :func:`lightning_adls.labs.tables.table`."""
    return [
        {header: cell(row, key, spec) for key, (header, spec) in columns.items()} for row in rows
    ]


def write_row(
    folder: Path, number: int, name: str, choices: Mapping[str, str | float], metrics: Row
) -> None:
    """Write what a step of a lab did and came to as a row of HPARAMS.

    Args:
        folder: Of the lab's run.
        number: Of the step, from 1.
        name: Of the step.
        choices: What tells it from other steps.
        metrics: By name; None is left out.
    """
    curves: dict[str, Curve] = {
        f"model/{key}": [(number, value)] for key, value in metrics.items() if value is not None
    }
    write_run(
        folder / "hparams" / f"{number:03d}",
        curves=curves,
        session=Session(f"{name} {folder.parent.name}/{folder.name}", choices),
    )


def write_model(run: Path, module: TextClassifier, texts: TextData) -> None:
    """Histograms of the rounded weights of a model, and how much its formats cut off.

    Args:
        run: Folder of the TensorBoard run.
        module: The model.
        texts: The data set, set up; a few validation batches are read.
    """
    layers = {
        name: layer
        for name, layer in module.model.named_modules()
        if isinstance(layer, QuantizedLayer)
    }
    module.eval()
    inputs = _inputs_outside(module, layers, texts)
    rows = []
    for name, layer in layers.items():
        weight = layer.formats.weight
        rows.append(
            {
                "layer": name,
                "weight": str(weight or "-"),
                "weights outside": None
                if weight is None
                else share_outside(weight, layer.to_rows(layer.weight), layer.scales_of("weight")),
                "input": str(layer.formats.input or "-"),
                "inputs outside": inputs.get(name),
            }
        )
    curves = {
        f"saturation/{what}": [
            (n, row[f"{what} outside"])
            for n, row in enumerate(rows, 1)
            if row[f"{what} outside"] is not None
        ]
        for what in ("weights", "inputs")
    }
    with torch.no_grad():
        histograms = {f"rounded/{name}": layer.rounded_weight() for name, layer in layers.items()}
    write_run(run, curves=curves, texts={"saturation": markdown(rows)}, histograms=histograms)


def share_outside(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> float:
    """Share of elements, 0 to 1, that lie outside of what a format can represent.

    Example:
        >>> from lightning_adls.formats import Integer
        >>> fmt = Integer(width=4, frac_width=0)
        >>> share_outside(fmt, torch.tensor([1.0, 7.0, 9.0, -20.0]), None)
        0.5
    """
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        # The clipped gradient is 0 there, and 1 elsewhere.
        replace(fmt, ste="clipped")(x, scales).sum().backward()
    assert x.grad is not None
    return float((x.grad == 0).double().mean())


def _inputs_outside(
    module: TextClassifier, layers: Mapping[str, QuantizedLayer], texts: TextData
) -> dict[str, float]:
    found: dict[str, list[float]] = {}

    def watch(
        name: str, layer: QuantizedLayer, fmt: NumberFormat
    ) -> "torch.utils.hooks.RemovableHandle":
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            share = share_outside(fmt, arguments[0], layer.scales_of("input"))
            found.setdefault(name, []).append(share)

        return layer.register_forward_pre_hook(hook)

    handles = [
        watch(name, layer, layer.formats.input)
        for name, layer in layers.items()
        if layer.formats.input is not None
    ]
    try:
        with torch.no_grad():
            for batch in islice(texts.val_dataloader(), _BATCHES):
                module.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: sum(shares) / len(shares) for name, shares in found.items()}
