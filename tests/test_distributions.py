"""The wheel and the sdist: they are complete, and the wheel works outside of a checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lightning_adls

ROOT = Path(__file__).parents[1]
# What is in the folder of a checkout and not of the project.
NOT_OURS = (".*", "__pycache__", "*.egg-info", "build", "dist", "lightning_logs", "site")
NAME = f"lightning_adls-{lightning_adls.__version__}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this checkout, and the wheel that is made of that sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*NOT_OURS))
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", ".", "checkout"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def unpacked(distributions: Path) -> Path:
    """The wheel as it lies in an environment."""
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(distributions / "unpacked")
    return distributions / "unpacked"


def files(folder: Path) -> set[str]:
    """All files below a folder but what Python and tools leave behind."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_the_wheel_holds_the_package_and_its_configs(unpacked: Path) -> None:
    package = files(unpacked / "lightning_adls")
    configs = {f"configs/{name}" for name in files(ROOT / "configs")}
    assert package == files(ROOT / "lightning_adls") | configs
    assert {path.name for path in unpacked.iterdir()} == {"lightning_adls", f"{NAME}.dist-info"}
    entry = (unpacked / f"{NAME}.dist-info" / "entry_points.txt").read_text()
    assert "adls = lightning_adls.commands.entry:main" in entry


def test_the_sdist_holds_what_builds_and_tests_it(distributions: Path) -> None:
    with tarfile.open(distributions / f"{NAME}.tar.gz") as archive:
        found = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    for folder in ("lightning_adls", "configs", "scripts", "tests", "benchmarks", "docs"):
        missing = {f"{folder}/{name}" for name in files(ROOT / folder)} - found
        assert missing == set()
    assert {"Makefile", "constraints.txt", "setup.py", "README.md", "LICENSE"} <= found


@pytest.mark.long
def test_the_wheel_works_outside_of_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    def adls(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lightning_adls", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(unpacked), "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "quantise a BERT at many widths" in adls("lab1", "--help")
    found = adls("doctor")
    assert f"in {unpacked}" in found
    assert f"Defaults of the commands: {unpacked / 'lightning_adls' / 'configs'}" in found
    printed = adls("lab3", "--config=configs/lab3_low_bit.yaml", "--print_config")
    assert "run: low_bit" in printed.splitlines()
    assert list(tmp_path.iterdir()) == []
