"""The program ``adls``: which command it starts, and what it says of itself."""

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import lightning_adls
from lightning_adls.commands import entry, figures
from lightning_adls.commands.table import COMMANDS, defaults_of, source_of
from lightning_adls.labs.calling import MAKE, Call, call

ROOT = Path(__file__).parents[2]
# torch, and what only reads YAML, which the list of all commands does not need.
HEAVY = ("torch", "lightning", "transformers", "yaml", "numpy")
SCRIPT = """
import sys
from lightning_adls.commands.entry import main
sys.argv = ["adls", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print("status", end.code)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

Adls = Callable[..., tuple[int, str, str]]


@pytest.fixture
def adls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Adls:
    """Status, output and errors of the program."""

    def adls(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/adls", *arguments])
        status = 0
        try:
            entry.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return adls


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_names_every_command_and_needs_nothing_large(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    *_, modules = done.stdout.splitlines()
    assert not set(HEAVY) & set(modules.split())
    for name, command in COMMANDS.items():
        assert f"  {name:<9}{command.about}\n" in done.stdout


def test_every_command_has_its_module_and_its_yaml() -> None:
    modules = {path.stem for path in source_of("lab0").parent.glob("*.py")}
    assert set(COMMANDS) == modules - {"__init__", "entry", "parser", "start", "table"}
    for name, command in COMMANDS.items():
        assert command.config is None or defaults_of(name).is_file()


def test_the_version_stands_in_one_place(adls: Adls) -> None:
    assert adls("--version") == (0, f"lightning_adls {lightning_adls.__version__}\n", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == lightning_adls.__version__


def test_an_unknown_command_is_refused_with_the_nearest(adls: Adls) -> None:
    message = "error: 'reprot' is no command of adls; did you mean report?\n"
    assert adls("reprot") == (2, "", message)
    assert adls("xyz") == (2, "", "error: 'xyz' is no command of adls; adls --help lists them.\n")
    assert adls("--verson")[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_user_types(
    name: str, adls: Adls, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, printed, _ = adls(name, "--help")
    assert status == 0
    assert printed.startswith(f"usage: adls {name}")
    if COMMANDS[name].config is not None:
        assert f"\n    adls {name} " in printed
    monkeypatch.setenv(MAKE, "1")
    _, printed, _ = adls(name, "--help")
    assert printed.startswith(f"usage: make {name} ARGS='")
    assert "adls " not in printed.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lab3", "--trails=3"], "--trails is no option of adls lab3; did you mean --trials?"),
        (["train", "fti"], "'fti' is no command of adls train; did you mean fit?"),
        (["figures"], "adls figures: the following arguments are required: RUN; --help"),
        (["report", "a", "--foldr=b"], "adls report: unrecognized arguments: --foldr=b; --help"),
        (["doctor", "me"], "adls doctor: unrecognized arguments: me; --help"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str], message: str, adls: Adls
) -> None:
    status, printed, errors = adls(*arguments)
    assert (status, printed) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_command_gets_its_arguments_and_the_process_keeps_its_own(
    adls: Adls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Lightning starts the other processes of a training by the process's own command line.
    given: list[list[str]] = []
    monkeypatch.setattr(figures, "main", given.append)
    monkeypatch.chdir(tmp_path)
    adls("figures", "lab1/default", "configs/lab3_low_bit.yaml", "--a=configs/none.yaml")
    assert sys.argv[1:3] == ["figures", "lab1/default"]
    ours = str(ROOT / "configs" / "lab3_low_bit.yaml")
    assert given == [["lab1/default", ours, "--a=configs/none.yaml"]]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "lab3_low_bit.yaml").touch()
    adls("figures", "configs/lab3_low_bit.yaml")
    assert given[1] == ["configs/lab3_low_bit.yaml"], "the user's own file wins"


@pytest.mark.parametrize(
    ("argv", "by_make", "line"),
    [
        (["/bin/adls", "lab3", "--run", "a b"], False, "adls lab3 --run 'a b'"),
        (["/bin/adls", "lab3", "--run", "a"], True, "make lab3 ARGS='--run a'"),
        (["mine.py", "--run", "a"], False, "python mine.py --run a"),
        (["adls.py", "--run", "a"], False, "python adls.py --run a"),
        ([entry.__file__.replace("commands/entry", "__main__"), "lab3"], False, "python -m"),
    ],
)
def test_a_run_notes_the_command_that_repeats_it(
    argv: list[str], by_make: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "executable", "/somewhere/bin/python")
    if by_make:
        monkeypatch.setenv(MAKE, "1")
    here = call()
    if line == "python -m":
        line = "python -m lightning_adls lab3"
    assert here.line(here.arguments) == line


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ([], []),
        (["--run", "a", "--devices=[cpu]"], []),
        (["--seed", "1", "--run=a", "--rounds.timed=2"], ["--seed", "1", "--rounds.timed=2"]),
        (["--devices", "[cpu]", "--runs", "1", "--run", "a"], ["--runs", "1"]),
    ],
)
def test_the_same_call_with_other_options(arguments: list[str], kept: list[str]) -> None:
    options = {"--devices": "[cuda]", "--run": "b"}
    typed = Call("adls lab4", "adls lab4", arguments).with_options(options)
    assert shlex.split(typed) == ["adls", "lab4", *kept, "--devices", "[cuda]", "--run", "b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--run", "a"],
        ["--only", "[random, tpe]"],
        ["--lora.layers", '["*.query"]', "--x=$HOME `b` \\n"],
        ["--a", "it's", "--b", 'he said "no"', "--c", "$5"],
    ],
)
def test_what_is_typed_for_make_reaches_the_command(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(f"lab3:\n\t@{sys.executable} show.py $(ARGS)\n")
    (tmp_path / "show.py").write_text("import sys\nprint(sys.argv[1:])\n")
    typed = Call("make lab3", "make lab3", by_make=True).line(arguments)
    done = subprocess.run(
        ["/bin/sh", "-c", typed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.splitlines()[-1] == str(arguments)
