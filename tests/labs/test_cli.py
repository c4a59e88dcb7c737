"""How the labs read their YAML and their command line."""

import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import nn

from lightning_adls.commands.start import start
from lightning_adls.commands.table import COMMANDS, defaults_of, source_of
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs import cli, short_help
from lightning_adls.labs.calling import call
from lightning_adls.models import NetworkFactory, bert, sequence_classifier

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
LABS = [name for name in COMMANDS if name.startswith("lab")]
NETWORKS = sorted((CONFIGS / "model").glob("*.yaml"))
DIMENSIONS = {
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "max_position_embeddings",
}

Parse = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def labs() -> Mapping[str, Parse]:
    """By lab, what its function is called with on some arguments."""
    found: dict[str, Parse] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in LABS:

            def run(
                main: Callable[..., None],
                defaults: Path,
                factories: Mapping[str, cli.Factory],
                name: str = name,
                **_: object,
            ) -> None:
                def parse(*arguments: str) -> dict[str, Any]:
                    return {"main": main, **cli.parse(main, defaults, factories, arguments)}

                found[name] = parse

            patch.setattr(cli, "run", run)
            start(name, [])
    return found


@pytest.fixture(params=LABS)
def any_lab(request: pytest.FixtureRequest, labs: Mapping[str, Parse]) -> Parse:
    return labs[request.param]


@pytest.fixture(params=[name for name in LABS if name != "lab2"])
def lab(request: pytest.FixtureRequest, labs: Mapping[str, Parse]) -> Parse:
    """All but Lab 2, which searches the dimensions."""
    return labs[request.param]


@pytest.fixture
def nas(labs: Mapping[str, Parse]) -> Parse:
    return labs["lab2"]


def write(folder: Path, content: object, name: str = "user.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / name)


WAYS: dict[str, Callable[[Path, dict[str, Any]], list[str]]] = {
    "single arguments": lambda _, given: [f"--model.{k}={v}" for k, v in given.items()],
    "init_args": lambda _, given: [f"--model.init_args.{k}={v}" for k, v in given.items()],
    "--config": lambda folder, given: [
        "--config",
        write(folder, {"model": {"class_path": "lightning_adls.models.bert", "init_args": given}}),
    ],
    "--config, flat": lambda folder, given: ["--config", write(folder, {"model": given})],
    "--model FILE": lambda folder, given: [
        "--model",
        write(folder, {"class_path": "lightning_adls.models.bert", "init_args": given}),
    ],
    "--model FILE, flat": lambda folder, given: [f"--model={write(folder, given)}"],
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[Path, dict[str, Any]], list[str]]:
    return WAYS[request.param]


def given(factory: NetworkFactory) -> dict[str, Any]:
    """The arguments that have a value."""
    return {name: value for name, value in factory.arguments.items() if value is not None}


def test_a_checkpoint_alone_wins_over_the_dimensions_of_the_default(
    lab: Parse, way: Callable[..., list[str]], tmp_path: Path
) -> None:
    network = lab(*way(tmp_path, {"checkpoint": "some/where"}))["model"]
    assert network.network is bert
    probabilities = {"dropout": 0.1, "attention_dropout": 0.0}
    expected = {"checkpoint": "some/where", **probabilities, "attention": "sdpa"}
    assert given(network) == expected


def test_dimensions_change_those_of_the_default_or_stand_for_themselves_in_a_file(
    lab: Parse, way: Callable[..., list[str]], tmp_path: Path
) -> None:
    default = {name: lab()["model"].arguments[name] for name in DIMENSIONS}
    assert None not in default.values()
    arguments = way(tmp_path, {"hidden_size": 32, "dropout": 0.2})
    network = lab(*arguments)["model"]
    found = {name: value for name, value in given(network).items() if name in DIMENSIONS}
    whole = arguments[0].startswith("--model=") or arguments[0] == "--model"
    assert found == ({"hidden_size": 32} if whole else {**default, "hidden_size": 32})
    assert network.arguments["dropout"] == 0.2


@pytest.mark.parametrize("first", ["checkpoint", "hidden_size"])
def test_what_the_user_gives_against_himself_is_refused(
    lab: Parse, first: str, tmp_path: Path
) -> None:
    both = {"checkpoint": "some/where", "hidden_size": 32}
    config = WAYS["--config"](tmp_path, {first: both.pop(first)})
    network = lab(*config, *WAYS["single arguments"](tmp_path, both))["model"]
    with pytest.raises(InputValueError, match="fixes the dimensions; do not give hidden_size"):
        network(num_classes=2)


def test_a_network_named_as_a_whole_replaces_all_that_was_said_before(
    lab: Parse, tmp_path: Path
) -> None:
    earlier = ["--config", write(tmp_path, {"model": {"checkpoint": "some/where"}})]
    network = lab(*earlier, f"--model={CONFIGS / 'model' / 'tiny.yaml'}", "--model.dropout=0.3")
    arguments = given(network["model"])
    assert arguments["hidden_size"] == 64
    assert "checkpoint" not in arguments
    assert arguments["dropout"] == 0.3


def test_the_defaults_of_one_class_are_not_those_of_another(lab: Parse) -> None:
    network = lab(
        "--model=lightning_adls.models.sequence_classifier",
        "--model.model_type=electra",
        "--model.config={hidden_size: 16}",
    )["model"]
    assert network.network is sequence_classifier
    # How many words there are is no matter of the class.
    assert {k: v for k, v in given(network).items() if k != "vocab_size"} == {
        "model_type": "electra",
        "config": {"hidden_size": 16},
    }


class Own(nn.Module):
    """Shares names with bert()."""

    def __init__(self, hidden_size: int = 3, dropout: float = 0.5) -> None:
        super().__init__()


@pytest.mark.parametrize("how", ["--model", "--model.class_path"])
def test_names_that_two_classes_share_do_not_carry_the_default_over(lab: Parse, how: str) -> None:
    network = lab(f"{how}={Own.__module__}.Own", "--model.dropout=0.4")["model"]
    assert network.network.__name__ == "Own"
    assert network.arguments == {"hidden_size": 3, "dropout": 0.4}


class Demanding(nn.Module):
    """Requires what the default network has."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()


def test_what_another_class_requires_is_not_taken_from_the_default(
    lab: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{Demanding.__module__}.Demanding"
    with pytest.raises(SystemExit) as ended:
        lab(f"--model={name}")
    assert ended.value.code == 2
    assert f"class_path='{name}' requires hidden_size" in capsys.readouterr().err
    network = lab(f"--model={name}", "--model.hidden_size=8")["model"]
    assert network.arguments == {"hidden_size": 8}


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_every_network_in_configs_is_taken_as_written(lab: Parse, path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    arguments = given(lab(f"--model={path}")["model"])
    assert content["init_args"].items() <= arguments.items()
    assert "checkpoint" in content["init_args"] or "checkpoint" not in arguments


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_every_network_with_random_weights_reads_the_labs_texts(
    path: Path, labs: Mapping[str, Parse]
) -> None:
    factory = labs["lab0"](f"--model={path}")["model"]
    if "checkpoint" in given(factory):
        pytest.skip("it is on the hub")
    from lightning_adls.models import check_length

    network = factory(num_classes=2, vocab_size=500, pad_token_id=0)
    check_length(network, 64)


def test_lab_2_takes_no_dimensions_and_no_checkpoint(
    nas: Parse,
    way: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"checkpoint": "some/where", "hidden_size": 32}.items():
        with pytest.raises(SystemExit) as ended:
            nas(*way(tmp_path, {name: value}))
        assert ended.value.code == 2
        assert f"'{name}'" in capsys.readouterr().err
    network = nas(*way(tmp_path, {"dropout": 0.2, "max_position_embeddings": 64}))["model"]
    assert given(network) == {
        "dropout": 0.2,
        "attention_dropout": 0.0,
        "max_position_embeddings": 64,
        "attention": "sdpa",
    }


def test_what_the_lab_gives_is_not_the_users_to_give(
    any_lab: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        any_lab("--model.num_classes=3")
    assert "'num_classes' is not accepted" in capsys.readouterr().err


def yamls_of(lab: str) -> list[list[str]]:
    """Calls with the YAML files of a lab; null over a value of the default is among them."""
    paths = sorted(CONFIGS.glob(f"{lab}_*.yaml"))
    return [[], *(["--config", str(path)] for path in paths)]


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_the_config_yaml_of_a_run_repeats_it(
    name: str, labs: Mapping[str, Parse], tmp_path: Path
) -> None:
    calls = yamls_of(name)
    if name != "lab2":
        calls.append(["--model.checkpoint=some/where", "--seed=3"])
    for arguments in calls:
        first = labs[name](*arguments)["config_yaml"]
        again = write(tmp_path, yaml.safe_load(first))
        assert labs[name]("--config", again)["config_yaml"] == first


WITH_DATA = [name for name in LABS if name != "lab4"]


@pytest.mark.long
@pytest.mark.parametrize("name", WITH_DATA)
def test_the_data_take_the_labs_seed_unless_they_are_given_one(
    name: str, labs: Mapping[str, Parse], tmp_path: Path
) -> None:
    lab = labs[name]
    assert lab()["data"](seed=5).seed == 5
    assert lab()["data"]().seed == 0
    assert lab("--data.seed=3")["data"](seed=5).seed == 3
    assert lab("--data.seed=0")["data"](seed=5).seed == 0
    config = write(tmp_path, {"data": {"seed": 4}})
    assert lab("--config", config)["data"](seed=5).seed == 4
    assert lab("--config", config, "--data.seed=null")["data"](seed=5).seed == 5
    data = write(tmp_path, {"dataset": "reviews", "seed": 6}, "data.yaml")
    assert lab("--data", data)["data"](seed=5).seed == 6
    assert isinstance(lab()["data"](), TextData)
    assert yaml.safe_load(lab()["config_yaml"])["data"]["seed"] is None


class Reached(Exception):
    """The data set was asked for."""


@pytest.mark.parametrize("name", [name for name in WITH_DATA if name != "lab2"])
def test_every_lab_gives_its_seed_to_the_data(
    name: str, labs: Mapping[str, Parse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds = []

    def data(seed: int) -> TextData:
        seeds.append(seed)
        raise Reached

    arguments = labs[name]("--seed=7")
    main = arguments.pop("main")
    with pytest.raises(Reached):
        main(**{**arguments, "data": data})
    assert seeds == [7]


@pytest.mark.parametrize("name", LABS)
def test_the_short_help_has_the_options_of_the_parser(
    name: str, labs: Mapping[str, Parse], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        labs[name]("--help.all")
    assert not ended.value.code
    every = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    described = short_help.read(source_of(name), defaults_of(name), call())
    # What is answered without the parser.
    assert (every - {"help"}) | {"status"} == {*described.options}
    assert all(described.options.values()), "an option without a word about it"


def test_one_option_is_explained_alone(any_lab: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    for name, found, absent in (
        ("run", "--run", "--model"),
        ("model", "--model.dropout", "--run"),
    ):
        with pytest.raises(SystemExit) as ended:
            any_lab(f"--help.{name}")
        assert not ended.value.code
        out = capsys.readouterr().out
        assert found in out
        assert absent not in out
    with pytest.raises(SystemExit) as ended:
        any_lab("--help.model.droput")
    assert ended.value.code == 2


MESSAGES = [
    (["--data.bach_size=3"], ["did you mean --data.batch_size?"]),
    (["--budget.epoch=3"], ["did you mean --budget.epochs?"]),
    (["--finetune.epoch=3"], ["--finetune: ", "Budget: ", "did you mean epochs?"]),
    (["--model.hiden_size=3"], ["did you mean hidden_size?"]),
    (["--sampler.n_startup=3"], ["did you mean n_startup_trials?"]),
    (["--config", {"data": {"bach_size": 3}}], ["did you mean", "batch_size"]),
    (["--config", {"trails": 3}], ["did you mean trials?"]),
    (["--config", {"budget": {"epoch": 1}}], ["did you mean", "epochs"]),
    (["--only=Integer"], ["--only: 'Integer' is not list[str] or null; write '[Integer]'."]),
    (["--trials=three"], ["--trials: 'three' is no whole number."]),
    (["--untrained=Integer, Log"], ["write '[Integer, Log]'"]),
    (
        ["--backend=mas"],
        ["--backend: 'mas' is none of 'standard', 'mase', 'chop'; did you mean mase?"],
    ),
    (["--engine=proceses"], ["--engine: 'proceses' is none of ", "did you mean processes?"]),
    (["--workers=two"], ["--workers: 'two' is no whole number."]),
    (
        ["--sampler=optuna.samplers.TPESamplr"],
        ["--sampler: optuna.samplers has no TPESamplr; did you mean TPESampler?"],
    ),
]


@pytest.mark.parametrize(("arguments", "parts"), MESSAGES, ids=lambda value: str(value[0]))
def test_what_cannot_be_read_is_said_with_what_was_meant(
    arguments: list[Any],
    parts: list[str],
    labs: Mapping[str, Parse],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [write(tmp_path, each) if isinstance(each, dict) else each for each in arguments]
    with pytest.raises(SystemExit) as ended:
        labs["lab3"](*given)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == [], line
    assert "Parser key" not in line
    assert "NoneType" not in line


def test_the_printed_config_lacks_the_defaults_that_are_dropped(
    lab: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        lab("--model.checkpoint=some/where", "--print_config")
    assert not ended.value.code
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert printed["checkpoint"] == "some/where"
    assert {name for name, value in printed.items() if value is not None} == {
        *("checkpoint", "dropout", "attention_dropout", "attention")
    }
    with pytest.raises(SystemExit) as ended:
        lab("--print_config=quux")
    assert ended.value.code == 2


def test_rounds_take_the_seed_of_lab_4_unless_they_are_given_one(
    labs: Mapping[str, Parse],
) -> None:
    lab = labs["lab4"]
    assert lab()["rounds"](seed=5).seed == 5
    assert lab()["rounds"](seed=5).timed == 10
    assert lab("--rounds.seed=3")["rounds"](seed=5).seed == 3


@dataclass
class Faulty:
    """Has a fault."""

    x: int = 0

    def __post_init__(self) -> None:
        raise KeyError("a fault")


def recipe(config_yaml: str, plain: Faulty, optional: Faulty | None = None) -> None:
    """A lab."""


def unplanned(config_yaml: str, optional: Faulty | None = None) -> None:
    """A lab."""


@pytest.mark.parametrize("main", [recipe, unplanned])
def test_a_fault_in_the_making_of_an_object_is_no_wrong_input(
    main: Callable[..., None], tmp_path: Path
) -> None:
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("{}")
    with pytest.raises((KeyError, ValueError), match="a fault"):
        cli.parse(main, defaults, {}, ["--optional.x=1"])


@pytest.mark.parametrize("content", [b"model: [", b"\xff\xfe", b"3"])
def test_a_config_that_cannot_be_read_is_one_line(
    content: bytes,
    labs: Mapping[str, Parse],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    for where in (path, tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(SystemExit) as ended:
            labs["lab0"](f"--config={where}")
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")


def test_help_names_the_arguments_of_the_default_network_and_not_all_of_torch(
    any_lab: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        any_lab("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "torch.nn.Linear" not in text
    assert "those of lightning_adls.models.bert are" in text
    assert "attention. --model.help [CLASS_PATH] explains" in text
    for argument, expected in {
        "": "Probability in the hidden layers",
        "=lightning_adls.models.sequence_classifier": "--model.config",
        f"={Own.__module__}.Own": "(type: float, default: 0.5)",
    }.items():
        with pytest.raises(SystemExit) as ended:
            any_lab(f"--model.help{argument}")
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "--model.dropout" in text
        assert "--model.num_classes" not in text
        assert expected in text
    with pytest.raises(SystemExit) as ended:
        any_lab("--model.help", "lightning_adls.models.nothing")
    assert ended.value.code == 2


def test_a_run_says_first_how_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config_yaml: str, seed: int) -> None:
        print(f"working with {seed}")

    monkeypatch.setattr(sys, "argv", ["lab"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")
    (tmp_path / "lab.yaml").write_text("seed: 3\n")
    cli.run(main, tmp_path / "lab.yaml")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "Threads that wait: passive after 3000 spins (OMP_WAIT_POLICY, GOMP_SPINCOUNT).",
        "working with 3",
    ]


def test_what_a_user_cannot_act_on_is_not_said() -> None:
    module = L.LightningModule()
    module.layer = nn.Linear(2, 2)
    module.trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False
    )

    logger = logging.getLogger("torch._inductor.select_algorithm")

    def say() -> None:
        ModelSummary(module)
        logger.warning("Constructing input/output tensor meta failed for Extern Choice")

    written = StringIO()
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    logger.filters.clear()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            say()
            assert "not supported by the model summary" in str(said[0].message)
            assert written.getvalue().count("Extern Choice") == 1
            cli.quiet()
            say()
        assert len(said) == written.getvalue().count("Extern Choice") == 1
    finally:
        logger.removeHandler(handler)
