"""Whether the models that a run left behind are made again from its files."""

from pathlib import Path

import pytest

from lightning_adls.export import verify
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.trained import of_run


def check(folder: Path) -> None:
    """Each model that the run chose has the validation accuracy that the run says."""
    run = StoredRun.read(folder)
    assert run.results
    for name, row in run.results.items():
        model = of_run(run, name)
        assert not model.module.training
        found = verify(model.module, {"itself": model.module}, model.texts.val_dataloader())
        assert found.accuracy == pytest.approx(row["val_accuracy"], abs=1e-5), name
