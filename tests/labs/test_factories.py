"""What a YAML names by class_path, as the labs read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelSummary
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

from lightning_adls.errors import InputValueError
from lightning_adls.labs import cli
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.search.samplers import SamplerFactory

DEFAULTS = """
callbacks: []
logger: [{class_path: lightning.pytorch.loggers.TensorBoardLogger}]
sampler: {class_path: optuna.samplers.TPESampler, init_args: {n_startup_trials: 3}}
"""
YAML = """
callbacks:
  - {class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/loss}}
  - ModelSummary
logger:
  - class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {flush_logs_every_n_steps: 3}
samplers:
  genetic: {class_path: optuna.samplers.NSGAIISampler, init_args: {population_size: 4}}
  random: RandomSampler
pruner: {class_path: optuna.pruners.MedianPruner, init_args: {n_warmup_steps: 4}}
"""

Parse = Callable[..., dict[str, Any]]


def main(
    config_yaml: str,
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    sampler: SamplerFactory,
    pruner: BasePruner | None = None,
    samplers: dict[str, SamplerFactory] | None = None,
) -> None:
    """A lab."""


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """What ``main`` is called with."""
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text(DEFAULTS)
    return lambda *arguments: cli.parse(main, defaults, {}, arguments)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    return f"--config={path}"


def test_callbacks_are_made_anew_for_each_training(parse: Parse, config: str) -> None:
    callbacks = parse(config)["callbacks"]
    first, second = ([make() for make in callbacks] for _ in range(2))
    assert [type(callback) for callback in first] == [EarlyStopping, ModelSummary]
    assert first[0].monitor == "val/loss"
    assert not {id(callback) for callback in first} & {id(callback) for callback in second}
    assert parse()["callbacks"] == []


def test_loggers_write_where_the_lab_says(parse: Parse, config: str, tmp_path: Path) -> None:
    (make,) = parse(config)["logger"]
    logger = make(save_dir=tmp_path, name="", version="a/b")
    assert isinstance(logger, CSVLogger)
    assert Path(logger.log_dir) == tmp_path / "a" / "b"
    assert logger._flush_logs_every_n_steps == 3
    (make,) = parse()["logger"]
    logger = make(save_dir=tmp_path, name="", version="a/b")
    assert isinstance(logger, TensorBoardLogger)
    assert Path(logger.log_dir) == tmp_path / "a" / "b"


def test_samplers_take_everything_but_their_seed(parse: Parse, config: str) -> None:
    parsed = parse(config)
    genetic, random = (make(seed=3) for make in parsed["samplers"].values())
    assert isinstance(genetic, NSGAIISampler)
    assert isinstance(random, RandomSampler)
    sampler = parsed["sampler"](seed=3)
    assert isinstance(sampler, TPESampler)
    assert sampler is not parsed["sampler"](seed=3)
    names = [parsed["sampler"](seed=seed)._rng.rng.random() for seed in (3, 3, 4)]
    assert names[0] == names[1] != names[2]


def test_short_names_and_single_arguments_do_on_the_command_line(parse: Parse) -> None:
    arguments = ("--sampler=NSGAIISampler", "--sampler.population_size=4")
    sampler = parse(*arguments)["sampler"](seed=0)
    assert isinstance(sampler, NSGAIISampler)
    assert sampler._population_size == 4
    assert isinstance(parse("--sampler=RandomSampler")["sampler"](seed=0), RandomSampler)
    pruner = parse("--pruner=HyperbandPruner", "--pruner.init_args.min_resource=2")["pruner"]
    assert isinstance(pruner, HyperbandPruner)
    (early,) = parse("--callbacks+=EarlyStopping", "--callbacks.monitor=val/loss")["callbacks"]
    assert early().monitor == "val/loss"


def test_a_pruner_is_an_object(parse: Parse, config: str) -> None:
    pruner = parse(config)["pruner"]
    assert isinstance(pruner, MedianPruner)
    assert pruner._n_warmup_steps == 4


def test_the_yaml_that_repeats_a_run_gives_the_same(
    parse: Parse, config: str, tmp_path: Path
) -> None:
    first = parse(config)["config_yaml"]
    (tmp_path / "again.yaml").write_text(first)
    assert parse(f"--config={tmp_path / 'again.yaml'}")["config_yaml"] == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler=Nothing"], "Nothing"),
        (["--sampler=optuna.pruners.MedianPruner"], "to be a subclass of"),
        (["--sampler.seed=3"], "Option 'seed' is not accepted"),
        (["--sampler.startup=3"], "Option 'startup' is not accepted"),
        (["--sampler.n_startup_trials=few"], "'few' is no whole number"),
        (["--samplers={a: {class_path: optuna.samplers.TPESampler, init_args: {b: 1}}}"], "'b'"),
        (["--pruner=MedianPruner", "--pruner.n_startup_trials=-1"], "MedianPruner: Number of"),
        (["--callbacks=[EarlyStopping]"], "required: monitor"),
        (["--callbacks=[lightning.pytorch.loggers.CSVLogger]"], "to be a subclass of"),
        (["--logger=[EarlyStopping]"], "EarlyStopping"),
        (["--logger=[{class_path: CSVLogger, init_args: {version: 3}}]"], "'version'"),
    ],
)
def test_what_is_unknown_or_wrong_is_one_line(
    parse: Parse, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_what_a_class_refuses_later_is_wrong_input_as_well(parse: Parse) -> None:
    parsed = parse(
        '--callbacks=[{"class_path": "EarlyStopping", "init_args": {"monitor": "a", "mode": "b"}}]',
        "--sampler=NSGAIISampler",
        "--sampler.population_size=1",
    )
    with pytest.raises(InputValueError, match="NSGAIISampler: `population_size` must be"):
        parsed["sampler"](seed=0)
    with pytest.raises(InputValueError, match="EarlyStopping: `mode` can be"):
        parsed["callbacks"][0]()
