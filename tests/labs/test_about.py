"""What a run says of itself."""

import subprocess
from pathlib import Path

import pytest

import lightning_adls
from lightning_adls.labs.about import about, commit
from lightning_adls.labs.run import Run


def test_seconds_are_those_of_all_steps_of_all_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lab.py", "--run", "a run"])
    for step in ("a", "b"):
        with Run("lab", "x", "seed: 0") as run:
            run.step(step, lambda: {"accuracy": 1.0})
    run.seconds |= {"a": 1.5, "b": 2.0}
    found = about(run, searched_seconds=3.0)
    assert (found["lab"], found["run"], found["total_seconds"]) == ("lab", "x", 6.5)
    assert found["command"].endswith("lab.py --run 'a run'")


def test_the_commit_is_that_of_a_checkout_of_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "environment" / "lightning_adls"
    package.mkdir(parents=True)
    monkeypatch.setattr(lightning_adls, "__file__", str(package / "__init__.py"))
    (package / "__init__.py").write_text("")
    assert commit() is None, "there is no checkout"

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init")
    git("commit", "--allow-empty", "--message", "of something else")
    assert commit() is None, "the checkout is of something else"
    git("add", ".")
    git("commit", "--message", "all")
    assert commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = 1")
    assert commit() == git("rev-parse", "HEAD") + "+"
