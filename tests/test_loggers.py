"""Loggers of all kinds know a training by the place that a lab gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from lightning_adls.labs import cli
from lightning_adls.labs.factories import LoggerFactory
from lightning_adls.loggers import MLFLOW, log_outcome, make_loggers, place_of

PLACE = {"save_dir": "logs/Integer", "name": "trials", "version": "001"}
NAME = "logs/Integer/trials/001"


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LoggerFactory]:
    """A factory as a lab gets it of what YAML says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def main(config_yaml: str, logger: list[LoggerFactory]) -> None:
        """A lab."""

    (tmp_path / "defaults.yaml").write_text("logger: []\n")

    def factory(yaml: str) -> LoggerFactory:
        (tmp_path / "logger.yaml").write_text(f"logger: [{yaml}]\n")
        parsed = cli.parse(main, tmp_path / "defaults.yaml", {}, ["--config=logger.yaml"])
        made: LoggerFactory = parsed["logger"][0]
        return made

    return factory


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_loggers_of_files_take_the_place_as_it_is(kind: type[Logger]) -> None:
    assert place_of(kind, PLACE) == PLACE


def test_others_are_given_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert place_of(MLFlowLogger, {**PLACE, "experiment_name": "a"}) == {
        "run_name": NAME,
        "tracking_uri": MLFLOW,
        "experiment_name": "a",
    }
    # As MLflow does when the first run begins.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", MLFLOW)
    assert place_of(MLFlowLogger, PLACE) == {"run_name": NAME, "tracking_uri": MLFLOW}
    given = place_of(MLFlowLogger, {**PLACE, "tracking_uri": "http://host"})
    assert given == {"run_name": NAME, "tracking_uri": "http://host"}
    # A version would be the identity of the run in the whole project: a second study has the same.
    given = place_of(WandbLogger, {**PLACE, "project": "p"})
    assert given == {"name": NAME, "save_dir": "logs/Integer", "project": "p"}
    assert Path("logs/Integer").is_dir()


def test_a_logger_made_by_hand_keeps_its_arguments() -> None:
    assert place_of(WandbLogger, {"name": "a", "version": "b"}) == {"name": "a", "version": "b"}


def outcome(logger: Logger) -> None:
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    log_outcome(logger, {"*.weight": "Integer(width=8)"}, {"value": 0.75})


def test_csv_files_hold_choices_and_value(factory: Callable[[str], LoggerFactory]) -> None:
    make = factory("{class_path: CSVLogger}")
    (logger,) = make_loggers([make], Path("logs"), "trials", "001")
    outcome(logger)
    assert "0.75" in Path("logs/trials/001/metrics.csv").read_text()
    assert "Integer(width=8)" in Path("logs/trials/001/hparams.yaml").read_text()


def test_mlflow_keeps_a_run_for_each_training(factory: Callable[[str], LoggerFactory]) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    make = factory("{class_path: MLFlowLogger, init_args: {experiment_name: compression}}")
    for version in ("001", "002"):
        (logger,) = make_loggers([make], Path("logs"), "trials", version)
        outcome(logger)
    assert isinstance(logger, MLFlowLogger)
    client: Any = logger.experiment
    runs = client.search_runs([logger.experiment_id])
    assert {run.info.run_name for run in runs} == {"logs/trials/001", "logs/trials/002"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.metrics == {"val/accuracy": 0.5, "value": 0.75} for run in runs)
    assert all(run.data.params["all.weight"] == "Integer(width=8)" for run in runs)


def test_weights_and_biases_keeps_a_run_for_each_training(
    factory: Callable[[str], LoggerFactory],
) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install wandb")
    make = factory("{class_path: WandbLogger, init_args: {project: compression, offline: true}}")
    found = []
    for version in ("001", "002"):
        (logger,) = make_loggers([make], Path("logs"), "trials", version)
        assert isinstance(logger, WandbLogger)
        found.append((logger.experiment.name, logger.experiment.id))
        outcome(logger)
    assert [name for name, _ in found] == ["logs/trials/001", "logs/trials/002"]
    assert found[0][1] != found[1][1]
    assert len(list(Path("logs/wandb").glob("offline-run-*"))) == 2


def test_a_training_that_failed_is_marked_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended: list[str] = []

    class Plain(CSVLogger):
        def finalize(self, status: str) -> None:
            ended.append(status)

    for failed in (False, True):
        log_outcome(Plain("logs"), {}, {}, failed=failed)
    assert ended == ["success", "failed"]
