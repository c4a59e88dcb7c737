"""scripts/train.py as its users run it, and what holds for all scripts."""

import csv
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import SaveConfigCallback
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lightning_adls.data import TextData
from lightning_adls.labs.run_folder import name_run
from lightning_adls.locks import exclusive

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "scripts" / "train.py"
# A few reviews.
SMALL_TRAIN = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
]

# And a small network.
TINY = [
    *(*SMALL_TRAIN, "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"),
    *("--model.model.hidden_size=16", "--model.model.num_hidden_layers=1"),
]
QAT = "lightning_adls.callbacks.QuantizationAwareTraining"

# One process for all scripts, because most of its time goes into Lightning's imports.
Run = Callable[..., int]


@pytest.fixture
def run(run: Callable[..., int], cache_dir: str) -> Run:
    """Run a script in an empty folder, on texts that are tokenised once."""
    return lambda script, *arguments: run(script, *arguments, f"--data.cache_dir={cache_dir}")


@pytest.mark.long
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
        (["--trainer.accelerator=tpu"], "torch_xla"),
        (["--trainer.max_epochs=-1"], "the Trainer has no end"),
        (["--ckpt_path=last"], "ckpt_path='last': there is no last.ckpt"),
        (["--ckpt_path=best"], "ckpt_path='best': there is no best.ckpt"),
        (["--ckpt_path=missing.ckpt"], "ckpt_path='missing.ckpt' is not there"),
        (["--ckpt_path=."], "ckpt_path='.' is a folder"),
        ([f"--ckpt_path={TRAIN}"], "cannot be read as a checkpoint"),
        (["--run=a", "--ckpt_path=last"], "lightning_logs/train/a/checkpoints"),
        (["--run="], "run='' is no name of a folder"),
        (["--run=../a"], "run='../a' is no name of a folder"),
        (["--run=a", "--trainer.logger=MLFlowLogger"], "MLFlowLogger, which has no folder"),
        (
            [f"--trainer.callbacks{x}" for x in ("+=" + QAT, ".recipe=missing.yaml")],
            "there is no file 'missing.yaml'",
        ),
    ],
)
def test_train_refuses_wrong_input_in_one_line(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused(TRAIN, "fit", *SMALL_TRAIN, *arguments)


def test_a_named_run_is_known_by_its_folder_to_loggers_that_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [f"lightning.pytorch.loggers.{name}Logger" for name in ("CSV", "Wandb", "MLFlow")]
    options = [
        Namespace(save_dir="logs", name="a", version=None),
        Namespace(save_dir=".", name=None, version=None, project="mine"),
        Namespace(save_dir="./mlruns", run_name=None, tracking_uri="sqlite:///a.db"),
    ]
    loggers = [
        Namespace(class_path=path, init_args=each)
        for path, each in zip(paths, options, strict=True)
    ]
    name_run(Namespace(logger=loggers), "train", "long")
    csv, wandb, mlflow = (vars(logger.init_args) for logger in loggers)
    assert csv == {"save_dir": "lightning_logs", "name": "train", "version": "long"}
    assert wandb["name"] == mlflow["run_name"] == "lightning_logs/train/long"
    assert wandb["project"] == "mine"
    assert "version" not in wandb
    assert mlflow["tracking_uri"] == "sqlite:///a.db"


def checkpoint(run: str, name: str = "last") -> dict[str, Any]:
    """What a run in the current folder left behind."""
    content: dict[str, Any] = torch.load(
        f"lightning_logs/train/{run}/checkpoints/{name}.ckpt", weights_only=True
    )
    return content


def test_what_the_user_gives_wins_over_a_checkpoint_which_wins_over_defaults(
    run: Run, tmp_path: Path
) -> None:
    first = ["--run=a", "--model.learning_rate=0.001", "--model.weight_decay=0.3"]
    assert run(TRAIN, "fit", *TINY, *first, "--model.warmup=0.5") == 0
    (tmp_path / "mine.yaml").write_text("model: {warmup: 0.2}")
    given = ["--config=mine.yaml", "--model.learning_rate=0.05", "--trainer.max_epochs=2"]
    assert run(TRAIN, "fit", *TINY, "--run=a", "--ckpt_path=last", *given) == 0
    content = checkpoint("a")
    hyper_parameters = content["hyper_parameters"]
    assert [hyper_parameters[n] for n in ("learning_rate", "weight_decay", "warmup")] == [
        *(0.05, 0.3, 0.2),
    ]
    groups = content["optimizer_states"][0]["param_groups"]
    assert [(g["initial_lr"], g["weight_decay"]) for g in groups] == [(0.05, 0.3), (0.05, 0.0)]
    assert content["lr_schedulers"][0]["base_lrs"] == [0.05, 0.05]
    config = yaml.safe_load((tmp_path / "lightning_logs/train/a/config.yaml").read_text())
    assert [config["model"][n] for n in ("learning_rate", "weight_decay", "warmup")] == [
        *(0.05, 0.3, 0.2),
    ]


@pytest.mark.long
def test_a_run_is_continued_evaluated_and_not_overwritten(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, "fit", *TINY, "--run=a") == 0
    folder = tmp_path / "lightning_logs" / "train" / "a"
    assert checkpoint("a")["global_step"] == 2
    assert run(TRAIN, "fit", *TINY, "--run=a") == 2
    assert "continue it by --ckpt_path last" in capsys.readouterr().err
    assert run(TRAIN, "fit", *TINY, "--run=a", "--ckpt_path=last") == 0
    assert "Nothing is left to train" in capsys.readouterr().out
    assert run(TRAIN, "fit", *TINY, "--run=a", "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    assert "Nothing is left" not in capsys.readouterr().out
    assert checkpoint("a")["global_step"] == 4
    fitted = (folder / "config.yaml").read_text()
    assert run(TRAIN, "validate", *TINY, "--run=a", "--ckpt_path=best") == 0
    assert "Checkpoint: lightning_logs/train/a/checkpoints/best" in capsys.readouterr().out
    assert (folder / "config.yaml").read_text() == fitted
    assert (folder / "validate.yaml").is_file()
    # Without a name it is the newest checkpoint of all runs.
    assert run(TRAIN, "fit", *TINY, "--ckpt_path=last", "--trainer.max_epochs=3") == 0
    assert checkpoint("version_0")["global_step"] == 6
    with exclusive(folder / "run.lock"):
        assert run(TRAIN, "fit", *TINY, "--run=a", "--ckpt_path=last") == 2
    assert "belongs to a run that is going on in process" in capsys.readouterr().err


def test_a_continued_run_is_the_uninterrupted_one(run: Run) -> None:
    keep = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    options = ["--trainer.callbacks.filename={epoch}", "--trainer.callbacks.save_top_k=-1"]
    fit = ["fit", *TINY, "--trainer.max_epochs=2"]
    assert run(TRAIN, *fit, "--run=a", keep, *options) == 0
    begun = "lightning_logs/train/a/checkpoints/epoch=0.ckpt"
    assert run(TRAIN, *fit, "--run=b", keep, *options, f"--ckpt_path={begun}") == 0
    whole, rest = checkpoint("a")["state_dict"], checkpoint("b")["state_dict"]
    assert all(torch.equal(whole[key], rest[key]) for key in whole)


def test_a_checkpoint_of_another_model_and_weights_alone_are_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, "fit", *TINY, "--run=a") == 0
    wider = "--model.model.hidden_size=32"
    assert run(TRAIN, "test", *TINY, wider, "--run=a", "--ckpt_path=best") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is of another model" in said
    assert "'model.bert.embeddings.word_embeddings.weight' has the shape" in said
    torch.save({"state_dict": checkpoint("a")["state_dict"]}, "weights.ckpt")
    assert run(TRAIN, "fit", *TINY, "--ckpt_path=weights.ckpt") == 2
    assert "holds weights alone; give it as --weights" in capsys.readouterr().err


def test_predict_writes_a_table_in_the_order_of_the_data(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f'"text {n}, <br />""so""",{"yes" if n % 3 else "no"}\n' for n in range(120)]
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        (tmp_path / "texts" / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "text", "so"])}
    Tokenizer(WordLevel(words, "[UNK]")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}'
    )
    data = [*("--data.dataset=texts", "--data.tokenizer=."), "--data.limit_test=64"]
    assert run(TRAIN, "predict", *TINY, *data, "--run=5") == 0
    (said,) = re.findall(r"Predictions: (.*)", capsys.readouterr().out)
    assert said == "lightning_logs/train/5/predictions.csv"
    with Path(said).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("row", "text", "label", "predicted", "probability_no", "probability_yes"),
    ]
    numbers = [int(row["row"]) for row in rows]
    assert len(numbers) == 64
    assert numbers == sorted(set(numbers))
    for number, row in zip(numbers, rows, strict=True):
        assert row["text"] == f'text {number}, <br />"so"'
        assert row["label"] == ("yes" if number % 3 else "no")
        no, yes = float(row["probability_no"]), float(row["probability_yes"])
        assert no + yes == pytest.approx(1)
        assert row["predicted"] == ("yes" if yes > no else "no")


def test_the_recipe_of_a_callback_may_be_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("quantize: {'*': MXInt(width=4)}\nkinds: [Linear]")
    callback = [f"--trainer.callbacks+={QAT}", "--trainer.callbacks.recipe", "recipe.yaml"]
    assert run(TRAIN, "fit", *TINY, *callback, "--run=a") == 0
    config = tmp_path / "lightning_logs" / "train" / "a" / "config.yaml"
    (tmp_path / "recipe.yaml").unlink()
    assert run(TRAIN, "fit", "--config", str(config), "--run=b") == 0  # it repeats the run
    names = [set(checkpoint(name)["state_dict"]) for name in "ab"]
    assert names[0] == names[1]


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
