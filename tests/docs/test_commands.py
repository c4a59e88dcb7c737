"""Commands in the documentation name targets, scripts and options that there are."""

import re
import shlex
from collections.abc import Callable

import pytest
from pages import PAGES, ROOT, commands_of, name_of

LABS = {path.stem.split("_")[0]: path for path in (ROOT / "scripts").glob("lab?_*.py")}
SCRIPTS = {**LABS, **{name: ROOT / "scripts" / f"{name}.py" for name in ("train",)}}
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _arguments(text: str) -> list[str]:
    """As a shell splits them; what the reader fills in is a word."""
    # At first, dots stand for another command's.
    words = shlex.split(re.sub(r"<[^>]+>", "x", text.strip().removeprefix("...")))
    return ["x" if word == "..." else word for word in words]


def _commands() -> dict[str, list[list[str]]]:
    """Arguments by what is called: a target of make, or the path of a script."""
    found: dict[str, list[list[str]]] = {}
    for page in PAGES:
        for line in commands_of(page):
            command = re.sub(r"\s+#.*$", "", line)
            if program := re.fullmatch(r"adls (\w+)( .*)?", command):
                assert program[1] in TARGETS, f"adls has the commands that make has: {command}"
                found.setdefault(program[1], []).append(_arguments(program[2] or ""))
            elif made := re.fullmatch(r"make ([\w-]+)(?: ARGS=(['\"])(.*)\2)?", command):
                found.setdefault(made[1], []).append(_arguments(made[3] or ""))
            elif called := re.search(
                r"(?:^|\s)((?:scripts|benchmarks|docs)/\w+\.py)( .*)?$", command
            ):
                if "$" not in command:
                    found.setdefault(called[1], []).append(_arguments(called[2] or ""))
            else:
                assert not re.match(r"make\b|python scripts", command) or "$" in command, (
                    f"{name_of(page)}: {command!r} is not understood"
                )
    return found


COMMANDS = _commands()


def test_targets_and_scripts_are_there() -> None:
    assert len(COMMANDS) > 20
    for called in COMMANDS:
        assert (ROOT / called).is_file() if "/" in called else called in TARGETS, called


def test_options_of_benchmarks_are_there() -> None:
    for called, commands in COMMANDS.items():
        path = ROOT / {
            "bench-formats": "benchmarks/formats.py",
            "bench-step": "benchmarks/step.py",
            "bench-flow": "benchmarks/mase_flow.py",
        }.get(called, called)
        if path.parent.name != "benchmarks":
            continue
        text = path.read_text(encoding="utf-8")
        for option in {word for words in commands for word in words if word.startswith("--")}:
            name = option.removeprefix("--").split("=")[0]
            # Those that are made of the parameters of a function have underscores there.
            known = f'"--{name}"' in text or re.search(rf"\b{name.replace('-', '_')}\b", text)
            assert known, f"{called} {option}"


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_take_the_arguments_of_every_command(
    name: str,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = SCRIPTS[name]
    given = COMMANDS.get(name, []) + COMMANDS.get(path.relative_to(ROOT).as_posix(), [])
    # What a page tells to write, and what a run has left, are not in the repository.
    configs = {ROOT / "configs/data/complaints.yaml": ROOT / "configs/data/sst2.yaml"}
    seen = {"--status", "--help"}  # which are answered before the others are read
    for words in sorted(given, key=len, reverse=True):
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if options <= seen:
            continue
        seen |= options
        words = [
            next((str(new) for old, new in configs.items() if str(old) == str(ROOT / word)), word)
            for word in words
        ]
        monkeypatch.chdir(ROOT)
        # After the subcommand, if there is one.
        at = 1 if name == "train" else 0
        status = run(path, *words[:at], "--print_config", *words[at:])
        assert status == 0, f"{name} {words}: {capsys.readouterr().err}"
