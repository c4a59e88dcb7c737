"""scripts/train.py as its users run it, and what holds for all scripts."""

import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from lightning_adls.data import TextData

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "scripts" / "train.py"
# A few reviews.
SMALL_TRAIN = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
]

# One process for all scripts, because most of its time goes into Lightning's imports.
HELP = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit:
        pass
    if slow := {"datasets", "peft", "transformers.models.bert"} & set(sys.modules):
        sys.exit(f"{script} imports {slow}")
"""

Run = Callable[..., int]


@pytest.fixture
def run(run: Callable[..., int], cache_dir: str) -> Run:
    """Run a script in an empty folder, on texts that are tokenised once."""
    return lambda script, *arguments: run(script, *arguments, f"--data.cache_dir={cache_dir}")


def test_train_fits_tests_and_predicts_from_its_checkpoint(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, "fit", *SMALL_TRAIN) == 0
    assert "full precision" in capsys.readouterr().out
    (best,) = tmp_path.glob("lightning_logs/train/version_0/checkpoints/best.ckpt")
    assert (best.parent.parent / "config.yaml").is_file()
    assert run(TRAIN, "test", *SMALL_TRAIN, f"--ckpt_path={best}") == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert run(TRAIN, "predict", *SMALL_TRAIN, f"--ckpt_path={best}") == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("quantize: {'*': MXInt(width=4)}")
    quantised = [f"--recipe={recipe}", f"--weights={best}"]
    assert run(TRAIN, "fit", *SMALL_TRAIN, *quantised) == 0
    assert "MXInt(width=4, block_size=32)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.learning_rate=x"], "learning_rate"),
        (["--model.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--data.dataset=nothing.csv", "--data.tokenizer=x"], "nothing.csv"),
        (["--recipe=missing.yaml"], "missing.yaml"),
        (["--weights=missing.ckpt"], "missing.ckpt"),
        (["--data.max_length=600"], "max_length=600 is above the 64 positions"),
        (["--model.model.checkpoint=x", "--model.model.hidden_size=8"], "do not give hidden_size"),
        (["--model.model=missing.yaml"], "missing.yaml"),
        (["--model.model.hidden_sizes=3"], "hidden_sizes"),
        (["--trainer.callbacks=[EarlyStopping]"], "required: monitor"),
        (
            [f"--trainer.callbacks{x}" for x in ("+=EarlyStopping", ".monitor=a", ".mode=b")],
            "EarlyStopping: `mode` can be",
        ),
        (["--trainer.precision=8"], "precision"),
        (["--trainer.accelerator=abacus"], "abacus"),
    ],
)
def test_train_refuses_wrong_input_in_one_line(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused(TRAIN, "fit", *SMALL_TRAIN, *arguments)


@pytest.mark.parametrize(
    ("arguments", "seed", "kept"),
    [
        ([], 0, None),
        (["--seed_everything=3"], 3, None),
        (["--seed_everything=3", "--data.seed=4"], 4, 4),
        (["--seed_everything=3", "--data.seed=0"], 0, 0),
        (["--config=seeded.yaml", "--seed_everything=3"], 5, 5),
    ],
)
def test_one_seed_reaches_the_data_unless_they_are_given_one(
    run: Run,
    arguments: list[str],
    seed: int,
    kept: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "seeded.yaml").write_text("data: {seed: 5}")
    seen = []

    @wraps(L.Trainer.fit)  # its signature is part of the command line
    def fit(self: L.Trainer, model: L.LightningModule, *, datamodule: TextData, **_: Any) -> None:
        seen.append(datamodule.seed)
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.setup(self, model, "fit")

    monkeypatch.setattr(L.Trainer, "fit", fit)
    assert run(TRAIN, "fit", *SMALL_TRAIN, *arguments) == 0
    assert seen == [seed]
    (config,) = tmp_path.glob("lightning_logs/train/version_0/config.yaml")
    content = yaml.safe_load(config.read_text())
    assert content["data"]["seed"] == kept


def test_train_reads_a_data_set_from_its_own_file(run: Run) -> None:
    data = f"--data={ROOT / 'configs' / 'data' / 'reviews.yaml'}"
    assert run(TRAIN, "fit", data, *SMALL_TRAIN) == 0


def test_help_waits_for_nothing_but_lightning() -> None:
    scripts = sorted(ROOT.glob("scripts/*.py"))
    assert len(scripts) >= 6
    done = subprocess.run(
        [sys.executable, "-c", HELP, *map(str, scripts)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    helps = done.stdout.split("usage: ")[1:]
    assert [text.split()[0] for text in helps] == [script.name for script in scripts]
    assert all("--config" in text for text in helps)
