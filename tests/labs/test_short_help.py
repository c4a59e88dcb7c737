"""What scripts say before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_adls.labs import short_help

ROOT = Path(__file__).parents[2]
# Those that have a YAML file; the others have a single argument or two.
SCRIPTS = [
    path
    for path in sorted((ROOT / "scripts").glob("*.py"))
    if short_help.defaults_of(path).exists()
]
LAB1 = ROOT / "scripts" / "lab1_compression.py"
LAB3 = ROOT / "scripts" / "lab3_mixed_precision.py"
TRAIN = ROOT / "scripts" / "train.py"

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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_needs_no_torch_is_short_and_has_examples(script: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(script), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )
    assert result.stdout.splitlines()[-1] == "status 0 False"
    assert len(result.stdout.splitlines()) < 110
    assert "--run RUN" in result.stdout
    assert "--help.all" in result.stdout
    assert f"    python scripts/{script.name}" in result.stdout
    assert result.stderr == ""


LABS = [script for script in SCRIPTS if script.stem.startswith("lab")]


@pytest.mark.parametrize("script", LABS, ids=lambda path: path.stem)
def test_help_of_the_status_is_there_and_needs_no_torch(script: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(script), "--help.status"],
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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_option_of_the_short_help_has_a_help_of_its_own(script: Path) -> None:
    described = short_help.read(script)
    for name in described.options:
        assert described.refusal([f"--help.{name}"]) is None
        assert described.help_of(name).split()[1].startswith(f"--{name}")


def test_an_option_that_is_not_there_needs_no_torch_either() -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(LAB3), "--trails", "3"],
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
    ("script", "arguments", "message"),
    [
        (LAB3, ["--trails=3"], "did you mean --trials?"),
        (LAB3, ["--modle.hidden_size", "3"], "did you mean --model?"),
        (LAB3, ["--quux"], "--quux is no option of lab3_mixed_precision.py; --help lists"),
        (LAB3, ["--help.trails"], "did you mean --trials?"),
        (LAB3, ["extra"], "'extra' belongs to no option"),
        (LAB3, ["--seed=1", "2"], "'2' belongs to no option; --help"),
        (LAB1, ["--widths", "4", "8"], "--widths: several values are one list; write '[4, 8]'"),
        (LAB1, ["--widths=4", "8", "--seed=1"], "write '[4, 8]' in quotes."),
        (LAB3, ["--only", "Log", "Full"], "'Full' belongs to no option; if --only takes several"),
        (LAB3, ["-trials", "3"], "-trials is no option of lab3_mixed_precision.py; did you mean"),
        (
            LAB3,
            ["--only", "[Integer,", "MXInt]", "--seed", "3"],
            "--only: the shell took a list apart; write '[Integer, MXInt]' in quotes.",
        ),
        (
            LAB3,
            ["--layers=[a,", "b,", "c]"],
            "--layers: the shell took a list apart; write '[a, b,",
        ),
        (TRAIN, ["fti"], "'fti' is no command of train.py; did you mean fit?"),
        (TRAIN, ["fit", "--trainr.max_epochs=1"], "did you mean --trainer?"),
        (TRAIN, ["fit", "validate"], "'validate' belongs to no option"),
    ],
)
def test_names_that_are_not_there_are_refused(
    script: Path, arguments: list[str], message: str
) -> None:
    assert message in str(short_help.read(script).refusal(arguments))


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (LAB3, []),
        (LAB3, ["--config", "x.yaml", "--only", "[Integer,MXInt]", "--seed=3"]),
        (LAB3, ["--model.help", "some.Class", "--callbacks+=Timer", "--print_config"]),
        (LAB3, ["--weights", "-1", "--help.model.dropout", "--help.all"]),
        (TRAIN, ["-c", "x.yaml", "fit"]),
        (TRAIN, ["--config", "x.yaml", "fit", "--trainer.max_epochs", "3", "--run", "fit"]),
    ],
)
def test_names_that_are_there_pass(script: Path, arguments: list[str]) -> None:
    assert short_help.read(script).refusal(arguments) is None


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_options_of_train_are_those_of_its_parser(command: str) -> None:
    result = subprocess.run(
        [sys.executable, str(TRAIN), command, "--print_config"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    missing = set(yaml.safe_load(result.stdout)) - set(short_help.read(TRAIN).options)
    assert not missing, "they would be refused"
