"""A stock Trainer with two processes on TextData."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

SCRIPT = """
import json, sys
from pathlib import Path
import lightning as L
import torch
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.models import bert


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def note(self, stage, batch):
        self.seen.setdefault(stage, []).append(batch["input_ids"].tolist())

    def training_step(self, batch):
        self.note(f"train{self.current_epoch}", batch)
        return self.weight * 0

    def validation_step(self, batch):
        self.note(f"val{self.current_epoch}", batch)

    def test_step(self, batch):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def texts(folder):
    # On two devices one row is left over for the last step of every part.
    return TextData(cache_dir=str(folder / "cache"), limit_train=65, limit_val=33, limit_test=33,
                    batch_size=8, eval_batch_size=16)


def trainer(**arguments):
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False,
                     num_sanity_val_steps=0, **arguments)


def see(data, **arguments):
    recorder, fitting = Recorder(), trainer(max_epochs=2, **arguments)
    fitting.fit(recorder, datamodule=data)
    fitting.test(recorder, datamodule=data, verbose=False)
    return recorder.seen


def judge(data, **arguments):
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    network = bert(vocab_size=data.vocab_size, hidden_size=16, num_hidden_layers=1)
    classifier, judging = TextClassifier(network), trainer(**arguments)
    metrics = judging.validate(classifier, datamodule=data, verbose=False)[0]
    metrics |= judging.test(classifier, datamodule=data, verbose=False)[0]
    predicted = [index for batch in judging.predict(classifier, datamodule=data)
                 for index in batch["index"].tolist()]
    calibrating = [batch["input_ids"].tolist() for batch in data.calibration_batches(3)]
    return {"metrics": metrics, "predicted": predicted, "calibrating": calibrating}


if __name__ == "__main__":
    folder, two = Path(sys.argv[1]), {"devices": 2, "strategy": "ddp"}
    data = texts(folder)
    found = {"seen": see(data, **two)} | judge(data, **two)
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, folder / "script.py", folder],
        env=os.environ | here,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    """What this process finds."""
    script = runpy.run_path(str(folder / "script.py"))
    return script["judge"](script["texts"](folder))


def test_two_processes_of_a_stock_trainer_share_every_row_of_every_epoch(
    ranks: list[dict[str, Any]],
) -> None:
    first_seen, second_seen = (rank["seen"] for rank in ranks)
    rows = {"train0": 65, "train1": 65, "val0": 33, "val1": 33, "test": 33}
    texts = {}
    for stage, count in rows.items():
        first, second = first_seen[stage], second_seen[stage]
        assert len(first) == len(second)
        met = [tuple(token for token in row if token) for batch in first + second for row in batch]
        assert len(met) == len(set(met)) == count, stage
        texts[stage] = set(met)
    assert texts["train0"] == texts["train1"]
    assert texts["val0"] == texts["val1"]
    assert first_seen["train0"] != first_seen["train1"]
    assert not (texts["train0"] | texts["val0"]) & texts["test"]
    assert not texts["train0"] & texts["val0"]


def test_two_processes_judge_a_classifier_as_one_does(
    ranks: list[dict[str, Any]], alone: Any
) -> None:
    assert set(alone["metrics"]) == {"val/loss", "val/accuracy", "test/loss", "test/accuracy"}
    for rank in ranks:
        assert rank["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)


def test_two_processes_predict_every_row_once(ranks: list[dict[str, Any]], alone: Any) -> None:
    together = [index for rank in ranks for index in rank["predicted"]]
    assert len(together) == 33
    assert sorted(together) == sorted(alone["predicted"])


def test_every_process_calibrates_on_the_same_batches(
    ranks: list[dict[str, Any]], alone: Any
) -> None:
    for rank in ranks:  # after two epochs, and attached to Trainers
        assert rank["calibrating"] == alone["calibrating"]
