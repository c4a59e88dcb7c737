"""What a user sees of a search in TensorBoard, in a real browser."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from browser import browser, reason_to_skip, served, tensorboard
from PIL import Image

from lightning_adls import search
from lightning_adls.events import write_run
from lightning_adls.labs.tensorboard import OVERVIEW, TensorBoard, search_layout
from lightning_adls.search import Objective, Search
from lightning_adls.transforms import Quantize

LAYOUT = search_layout("The lab's figure")


@pytest.mark.long
@pytest.mark.skipif(bool(reason_to_skip()), reason=str(reason_to_skip()))
def test_a_search_tells_its_story(quick: Objective[Quantize], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    objective = replace(quick, folder=folder / "Integer")
    board = TensorBoard()
    with search.open_storage(folder / "journal") as storage:
        study = search.open_study(storage, "Integer", {}, optuna.pruners.NopPruner())
        Search(study, objective, trials=2, listeners=[board.listener(folder, "lab/run")]).run()
    Image.new("RGB", (600, 400), "white").save(folder / "best.png")
    (folder / "recipe.yaml").write_text("quantize: {'*': Integer}\n")
    tables = {"best": [{"study": "Integer", "val acc.": 0.5}]}
    board.write_page(folder, LAYOUT, tables, {"Integer": "recipe.yaml"})

    with served(tensorboard(folder)) as url, browser() as page:
        page.open(f"{url}#custom_scalars")
        text = page.text_with("The lab's figure", "best value so far", "trials per hour")
        assert "Integer/pareto" in text
        page.open(f"{url}#hparams")
        text = page.text_with("Integer/001", "Integer/002", "weight", "state", "trial/value")
        for name in ("bits_per_weight", "size_mb", "seconds"):
            assert f"trial/{name}" in text
        for name in ("hp_metric", "batch_size", "cache_dir", "learning_rate"):
            assert name not in text
        page.screenshot(tmp_path / "hparams.png")
        page.open(f"{url}#images")
        page.text_with("figure/best")
        page.open(f"{url}#text")
        page.text_with("val acc.", "quantize: {'*': Integer}")
        # As of a lab's default run: there are too many runs for TensorBoard to show any by itself.
        for n in range(50):
            write_run(folder / "more" / str(n), curves={"a": [(0, 0.5)]})
        page.open(f"{url}#text&regexInput={OVERVIEW}")
        page.text_with("val acc.", "quantize: {'*': Integer}")
        page.open(f"{url}#custom_scalars&regexInput={OVERVIEW}")
        assert "more/" not in page.text_with("best value so far", "overview/Integer")
    with served(tensorboard(folder / OVERVIEW)) as url, browser() as page:
        page.open(f"{url}#custom_scalars")
        page.text_with("The lab's figure", "Matches (1)", "Integer/pareto")
        page.open(f"{url}#text")
        page.text_with("val acc.", "quantize: {'*': Integer}")
    with Image.open(tmp_path / "hparams.png") as shot:
        assert shot.width == 1400
        assert len(shot.convert("RGB").resize((64, 64)).getcolors(64 * 64) or ()) > 8, (
            "an empty page"
        )
