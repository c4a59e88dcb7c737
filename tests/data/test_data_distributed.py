"""A stock Trainer with two processes on TextData."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
import lightning as L
import torch
from lightning_adls.data import TextData


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


folder = Path(sys.argv[1])
data = TextData(cache_dir=str(folder / "cache"), limit_train=75, limit_val=41, limit_test=37,
                batch_size=8, eval_batch_size=16)
module = Recorder()
trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                    enable_checkpointing=False, enable_progress_bar=False,
                    enable_model_summary=False, num_sanity_val_steps=0)
trainer.fit(module, datamodule=data)
trainer.test(module, datamodule=data)
(folder / f"{trainer.global_rank}.json").write_text(json.dumps(module.seen))
"""


def test_two_processes_of_a_stock_trainer_share_every_row_of_every_epoch(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path],
        env=os.environ | here,
        check=True,
        capture_output=True,
        timeout=300,
    )
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    rows = {"train0": 75, "train1": 75, "val0": 41, "val1": 41, "test": 37}
    texts = {}
    for stage, count in rows.items():
        first, second = (rank[stage] for rank in ranks)
        assert len(first) == len(second)
        met = [tuple(token for token in row if token) for batch in first + second for row in batch]
        assert len(met) == len(set(met)) == count, stage
        texts[stage] = set(met)
    assert texts["train0"] == texts["train1"]
    assert texts["val0"] == texts["val1"]
    assert ranks[0]["train0"] != ranks[0]["train1"]
    assert not (texts["train0"] | texts["val0"]) & texts["test"]
    assert not texts["train0"] & texts["val0"]
