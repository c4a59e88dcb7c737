"""``adls doctor``: every finding, on machines that this one is not."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lightning_adls.commands import doctor
from lightning_adls.labs.checks import machine, packages, places
from lightning_adls.labs.checks.finding import Finding

REQUIRED = [
    *map(Requirement, ("lightning>=2", "transformers", "optuna>=5.0")),
    Requirement("peft>=0.18; extra == 'lora'"),
    Requirement("psycopg[binary]>=3.2; extra == 'postgres'"),
    Requirement("lightning_adls[lora]; extra == 'dev'"),
    Requirement("ruff; extra == 'dev'"),
    Requirement("oldpackage; python_version < '3'"),
]
HERE = {"lightning": "2.6", "transformers": "5.0", "optuna": "5.0.0b1", "ruff": "1.0"}


def test_packages_that_are_there_are_fine() -> None:
    # A version before 5.0 is none of 5.0.
    here = {**HERE, "optuna": "5.0", "peft": "0.18"}
    (found,) = packages.check_required(REQUIRED, here.get)
    assert found == Finding("ok", "All 3 required packages, lightning 2.6, transformers 5.0")
    assert [each.kind for each in packages.check_extra("lora", REQUIRED, here.get)] == ["ok"]
    assert list(packages.check_extra("dev", REQUIRED, here.get)) == [
        Finding("ok", "Extra dev: ruff")
    ]


def test_packages_that_are_missing_or_old_come_with_the_command_that_installs_them() -> None:
    here = {**HERE, "optuna": "4.9"}
    del here["transformers"]
    assert list(packages.check_required(REQUIRED, here.get)) == [
        Finding("problem", "transformers is not installed; pip install transformers"),
        Finding("problem", "optuna 4.9 is here, >=5.0 is needed; pip install 'optuna>=5.0'"),
    ]
    assert list(packages.check_extra("postgres", REQUIRED, here.get)) == [
        Finding("note", "Extra postgres lacks psycopg; pip install 'psycopg[binary]>=3.2'")
    ]
    del here["ruff"]
    assert list(packages.check_extra("dev", REQUIRED, here.get)) == [
        Finding("ok", "Extra dev, of a checkout, lacks ruff; pip install --editable '.[dev]'")
    ]


def test_without_its_packages_nothing_else_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "check_packages", lambda: iter([Finding("problem", "No x")]))
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["problem  No x.", "1 to mend, 0 notes."]


def kinds(found: object) -> list[str]:
    assert isinstance(found, list)
    return [each.kind for each in found]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, ["ok", "note", "note"]),
        ({"avx2": True, "avx512_f": True, "avx512_vnni": True}, ["ok", "ok", "note"]),
        ({"neon": True, "i8mm": True, "bf16": True}, ["ok", "ok", "ok"]),
        ({"avx512_f": True, "amx_int8": True, "amx_bf16": True}, ["ok", "ok", "ok"]),
        ({}, ["ok", "note", "note"]),
    ],
)
def test_what_a_processor_multiplies(capabilities: dict[str, bool], expected: list[str]) -> None:
    found = list(machine.check_processor("A processor", capabilities))
    assert kinds(found) == expected
    assert all(name in " ".join(each.text for each in found) for name in capabilities)


def test_more_threads_than_a_container_grants_are_told() -> None:
    waits = {"OMP_WAIT_POLICY": "PASSIVE"}
    first, second = machine.check_threads(64, 64, 2.0, waits)
    assert first.kind == "note"
    assert first.text.endswith("export OMP_NUM_THREADS=2")
    assert second.kind == "ok"
    assert kinds(list(machine.check_threads(2, 64, 2.0, waits))) == ["ok", "ok"]
    assert kinds(list(machine.check_threads(4, 4, None, {"OMP_WAIT_POLICY": "active"}))) == [
        "ok",
        "note",
    ]


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None)]
)
def test_the_quota_of_a_container(text: str, expected: float | None, tmp_path: Path) -> None:
    assert machine.quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text(text)
    assert machine.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("cuda", "gpus", "nvidia", "kind", "says"),
    [
        (None, [], False, "ok", "a build for CPUs; no GPU"),
        ("13.0", ["H100"], True, "ok", "GPUs: H100"),
        ("13.0", [], True, "problem", "cannot use the GPU"),
        (None, [], True, "problem", "pip install torch"),
        ("13.0", [], False, "note", "https://download.pytorch.org/whl/cpu"),
    ],
)
def test_the_build_of_torch_goes_with_the_machine(
    cuda: str | None, gpus: list[str], nvidia: bool, kind: str, says: str
) -> None:
    (found,) = machine.check_torch("2.13.0", cuda, gpus, nvidia)
    assert found.kind == kind
    assert says in found.text


def test_what_compiling_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert kinds(list(machine.check_compiler("/usr/bin/g++", True))) == ["ok"]
    assert "python3-dev" in next(machine.check_compiler("/usr/bin/g++", False)).text
    assert "g++" in next(machine.check_compiler(None, True)).text
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.compiler() is None
    (tmp_path / "clang++").touch(mode=0o755)
    assert machine.compiler() == str(tmp_path / "clang++")


@pytest.mark.parametrize(
    ("possible", "kept", "kind", "says"),
    [
        (True, True, "ok", "decode, encode compiled, and kept"),
        (True, False, "ok", "encode compiled when first worth it"),
        (False, False, "note", "encode run in torch"),
    ],
)
def test_how_fast_packed_weights_are(possible: bool, kept: bool, kind: str, says: str) -> None:
    found = machine.check_kernels(
        {"decode": True, "encode": possible}, {"decode": True, "encode": kept}
    )
    assert found.kind == kind
    assert says in found.text


def test_where_runs_are_written_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here" / "lightning_logs"
    assert kinds(list(places.check_writable(folder))) == ["ok"]
    assert list(tmp_path.iterdir()) == []

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (found,) = places.check_writable(folder)
    assert found.kind == "problem"
    assert "(Permission denied)" in found.text


def test_room_and_the_hub() -> None:
    rooms = [next(places.check_room(free, Path("a"))).kind for free in (0.1, 2.0, 50.0)]
    assert rooms == ["problem", "note", "ok"]
    assert next(places.check_hub("")).kind == "ok"
    assert "Offline: HF_HUB_OFFLINE is set" in next(places.check_hub("HF_HUB_OFFLINE is set")).text


def test_this_machine_is_looked_at_and_the_status_says_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("lightning_adls ")
    found = [re.split(r"\s+", line, maxsplit=1) for line in lines]
    assert {kind for kind, _ in found} <= {"ok", "note", "problem"}
    problems = sum(kind == "problem" for kind, _ in found)
    assert ended.value.code == bool(problems)
    assert last.startswith(f"{problems} to mend" if problems else "Labs can run here")
    for word in ("Python 3", "Processor", "torch 2", "OMP_WAIT_POLICY", str(tmp_path), "Offline"):
        assert word in "\n".join(lines)
    assert list(tmp_path.iterdir()) == []
