"""Nothing of a figure is cut off at its edge."""

from pathlib import Path

import pytest
from PIL import Image

from lightning_adls.figures.maps import draw_format_map


@pytest.mark.parametrize("layers", [1, 14])
@pytest.mark.parametrize("name", ["query", "attention.output.dense"])
def test_names_of_layers_are_whole(layers: int, name: str, tmp_path: Path) -> None:
    names = [f"bert.encoder.layer.{n}.{name}" for n in range(layers)]
    path = tmp_path / "formats.png"
    draw_format_map(path, {name: {"weight": "Integer(width=8)"} for name in names}, title="Title")
    with Image.open(path) as picture:
        edge = picture.convert("L").crop((0, 0, 2, picture.height))
    assert edge.getextrema() == (255, 255), "something is drawn on the edge"
