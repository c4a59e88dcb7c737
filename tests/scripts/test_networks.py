"""The scripts with networks other than BERT, and with a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_adls.data import TextData
from lightning_adls.models import bert

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
NETWORKS = {
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "roberta": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 26,
    },
}
DATA = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
]
CALLS = {
    "lab0_finetune": [
        *("--pretraining=null", "--budget.epochs=0.5", "--budget.reports=1", "--run=test"),
        *("--lora_budget.epochs=0.5", "--lora_budget.reports=1", "--lora.trainable=[classifier*]"),
        "--lora.layers=['*layer.0*']",
    ],
    "lab1_compression": [
        *("--finetune.epochs=0.5", "--finetune.reports=1", "--qat.epochs=0.5"),
        *("--retrain.epochs=0.5", "--widths=[8]", "--frac_widths=[half]", "--sparsities=[0.5]"),
        *("--methods=[l1-norm]", "--schedules=[one_shot]", "--structured=[]", "--run=test"),
    ],
    "lab3_mixed_precision": [
        *("--finetune.epochs=0.5", "--finetune.reports=1", "--budget.epochs=0.5"),
        *("--budget.reports=1", "--trials=1", "--only=[Integer]", "--run=test"),
    ],
}

Run = Callable[..., int]


@pytest.fixture
def run(run: Run, cache_dir: str) -> Run:
    """Run a script in an empty folder, on texts that are tokenised once."""
    return lambda script, *arguments: run(
        SCRIPTS / f"{script}.py", *arguments, *DATA, f"--data.cache_dir={cache_dir}"
    )


def network(model_type: str) -> Path:
    """A YAML file as in configs/model."""
    init_args = {"model_type": model_type, "config": NETWORKS[model_type]}
    content = {"class_path": "lightning_adls.models.sequence_classifier", "init_args": init_args}
    path = Path("network.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "model_type"),
    [
        ("lab0_finetune", "distilbert"),
        ("lab1_compression", "roberta"),
        ("lab3_mixed_precision", "distilbert"),
    ],
)
def test_labs_run_with_another_network(run: Run, script: str, model_type: str) -> None:
    assert run(script, f"--model={network(model_type)}", *CALLS[script]) == 0
    (summary,) = Path().glob("lightning_logs/lab*/test/summary.json")
    assert json.loads(summary.read_text())


@pytest.mark.long
@pytest.mark.parametrize("model_type", NETWORKS)
def test_train_fits_another_network_and_reads_its_checkpoint(run: Run, model_type: str) -> None:
    trainer = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    given = f"--model.model={network(model_type)}"
    assert run("train", "fit", given, *trainer) == 0
    (best,) = Path().glob("lightning_logs/train/version_0/checkpoints/best.ckpt")
    assert run("train", "test", given, f"--ckpt_path={best}", "--trainer.accelerator=cpu") == 0
    # With what the run says that it was.
    config = best.parent.parent / "config.yaml"
    content = yaml.safe_load(config.read_text())["model"]["model"]
    assert content["init_args"]["config"] == NETWORKS[model_type]
    assert "hidden_size" not in content["init_args"]


@pytest.mark.long
def test_a_checkpoint_alone_is_enough_in_train(run: Run, texts: TextData) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    saved = bert(vocab_size=texts.vocab_size, **sizes)  # type: ignore[arg-type]
    saved.save_pretrained("checkpoint")  # type: ignore[operator]
    trainer = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    given = "--model.model.checkpoint=checkpoint"
    assert run("train", "fit", given, *trainer) == 0
    version = Path("lightning_logs/train/version_0")
    content = yaml.safe_load((version / "config.yaml").read_text())["model"]["model"]["init_args"]
    assert content["checkpoint"] == "checkpoint"
    assert content["hidden_size"] is None
    # Reading a checkpoint of Lightning parses the arguments once more.
    best = version / "checkpoints" / "best.ckpt"
    assert run("train", "test", given, f"--ckpt_path={best}", "--trainer.accelerator=cpu") == 0
    assert run("train", "fit", f"--config={version / 'config.yaml'}", *trainer) == 0
