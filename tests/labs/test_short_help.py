"""What commands say before torch is imported, as their scripts start them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_adls.commands.table import COMMANDS, defaults_of, source_of
from lightning_adls.labs import short_help
from lightning_adls.labs.calling import Call

ROOT = Path(__file__).parents[2]
# Those that have a YAML file; the others have a single argument or two.
NAMES = [name for name, command in COMMANDS.items() if command.config is not None]
LABS = [name for name in NAMES if name.startswith("lab")]


def script_of(name: str) -> str:
    """The script that is the same as a command."""
    return str(ROOT / "scripts" / f"{COMMANDS[name].config}.py")


def described(name: str) -> short_help.Described:
    """A command as ``adls`` describes it."""
    return short_help.read(source_of(name), defaults_of(name), Call(f"adls {name}", f"adls {name}"))


RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status", end.code, "torch" in sys.modules)
"""


@pytest.mark.parametrize("name", ["figures", "report"])
def test_help_of_the_others_needs_no_torch_either(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "scripts" / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.splitlines()[-1] == "status 0 False"


@pytest.mark.parametrize("name", NAMES)
def test_help_needs_no_torch_is_short_and_has_examples(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, script_of(name), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )
    assert result.stdout.splitlines()[-1] == "status 0 False"
    assert len(result.stdout.splitlines()) < 110
    assert "--run RUN" in result.stdout
    assert "--help.all" in result.stdout
    assert f"    python {script_of(name)}" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("name", LABS)
def test_help_of_the_status_is_there_and_needs_no_torch(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, script_of(name), "--help.status"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )
    option, text, *_, end = result.stdout.split("\n", 1)[1].strip().partition("  ")
    assert option == "--status"
    assert "Tell how far the run is that --run names" in text + end
    assert result.stdout.splitlines()[-1] == "status 0 False"
    assert result.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_each_option_of_the_short_help_has_a_help_of_its_own(name: str) -> None:
    command = described(name)
    for option in command.options:
        assert command.refusal([f"--help.{option}"]) is None
        assert command.help_of(option).split()[1].startswith(f"--{option}")


def test_an_option_that_is_not_there_needs_no_torch_either() -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, script_of("lab3"), "--trails", "3"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.splitlines()[-1] == "status 2 False"
    assert result.stderr == (
        "error: --trails is no option of lab3_mixed_precision.py; did you mean --trials? "
        "--help lists them all.\n"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lab3", ["--trails=3"], "did you mean --trials?"),
        ("lab3", ["--modle.hidden_size", "3"], "did you mean --model?"),
        ("lab3", ["--quux"], "--quux is no option of adls lab3; --help lists"),
        ("lab3", ["--help.trails"], "did you mean --trials?"),
        ("lab3", ["extra"], "'extra' belongs to no option"),
        ("lab3", ["--seed=1", "2"], "'2' belongs to no option; --help"),
        ("lab1", ["--widths", "4", "8"], "--widths: several values are one list; write '[4, 8]'"),
        ("lab1", ["--widths=4", "8", "--seed=1"], "write '[4, 8]' in quotes."),
        ("lab3", ["--only", "Log", "Full"], "'Full' belongs to no option; if --only takes several"),
        ("lab3", ["-trials", "3"], "-trials is no option of adls lab3; did you mean"),
        (
            "lab3",
            ["--only", "[Integer,", "MXInt]", "--seed", "3"],
            "--only: the shell took a list apart; write '[Integer, MXInt]' in quotes.",
        ),
        (
            "lab3",
            ["--layers=[a,", "b,", "c]"],
            "--layers: the shell took a list apart; write '[a, b,",
        ),
        ("train", ["fti"], "'fti' is no command of adls train; did you mean fit?"),
        ("train", ["fit", "--trainr.max_epochs=1"], "did you mean --trainer?"),
        ("train", ["fit", "validate"], "'validate' belongs to no option"),
    ],
)
def test_names_that_are_not_there_are_refused(
    name: str, arguments: list[str], message: str
) -> None:
    assert message in str(described(name).refusal(arguments))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lab3", []),
        ("lab3", ["--config", "x.yaml", "--only", "[Integer,MXInt]", "--seed=3"]),
        ("lab3", ["--model.help", "some.Class", "--callbacks+=Timer", "--print_config"]),
        ("lab3", ["--weights", "-1", "--help.model.dropout", "--help.all"]),
        ("train", ["-c", "x.yaml", "fit"]),
        ("train", ["--config", "x.yaml", "fit", "--trainer.max_epochs", "3", "--run", "fit"]),
    ],
)
def test_names_that_are_there_pass(name: str, arguments: list[str]) -> None:
    assert described(name).refusal(arguments) is None


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_options_of_train_are_those_of_its_parser(
    command: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Path(script_of("train")), command, "--print_config") == 0
    missing = set(yaml.safe_load(capsys.readouterr().out)) - set(described("train").options)
    assert not missing, "they would be refused"
