"""Take the screenshots of docs/tensorboard.md from a run of Lab 3.

    python docs/screenshots.py lightning_logs/lab3/imdb

Needs a browser; see tests/browser.py. That of Optuna's dashboard is taken where it is
installed.
"""

import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import optuna  # noqa: E402
from browser import Page, browser, reason_to_skip, served, tensorboard  # noqa: E402
from PIL import Image  # noqa: E402

from lightning_adls.search import open_storage  # noqa: E402

# By page, the folder that is shown, and what has to be on the page before it is complete.
PAGES = {
    "custom_scalars": ("overview", "best value so far"),
    "hparams": (".", "trial/value"),
    "images": ("overview", "figure/"),
    "text": ("overview", "recipe/"),
}
SMOOTHING = "_smoothingWeight=0"


def main() -> None:
    """Write one PNG file a page into docs/images."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    run = parser.parse_args().run
    if reason := reason_to_skip():
        parser.error(reason)
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    with browser() as page:
        for name, (shown, part) in PAGES.items():
            with served(tensorboard(run / shown)) as url:
                page.open(f"{url}#{name}&{SMOOTHING}")
                page.text_with(part)
                page.wait(2)  # curves are drawn after their titles
                save(page, folder / f"tensorboard_{name}.png")
        if dashboard := shutil.which("optuna-dashboard"):
            journal = str(run / "search.journal")
            with open_storage(journal) as storage:
                studies = optuna.get_all_study_summaries(storage)
            most = max(range(len(studies)), key=lambda number: studies[number].n_trials)
            with served(lambda port: [dashboard, journal, f"--port={port}"]) as url:
                page.open(f"{url}dashboard/studies/{most}")
                page.text_with("val/accuracy")
                page.wait(2)
                save(page, folder / "optuna_dashboard.png")


def save(page: Page, path: Path) -> None:
    """Save what is seen, in few colours: the files lie in the repository."""
    page.screenshot(path)
    with Image.open(path) as shot:
        shot.convert("RGB").quantize(64).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
