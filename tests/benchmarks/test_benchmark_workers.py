"""The benchmark of workers: what it compares, and what it refuses."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "workers.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.parametrize("text", ["serial", "serial:1", "threads:2x1", "processes:0x1"])
def test_a_configuration_names_engine_workers_and_threads(
    run: Callable[..., int], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--configurations", text) == 2
    assert f"{text!r} has not the form of processes:2x1" in capsys.readouterr().err


def test_other_values_with_as_many_threads_are_refused(benchmark: dict[str, Any]) -> None:
    parse, timed = benchmark["Configuration"].parse, benchmark["Round"]
    serial, one, many = (parse(f"serial:1x{n}") for n in (2, 1, 3))
    processes = parse("processes:2x1")
    found = {
        serial: [timed(1.0, 1.0, 1.0, (0.5, 0.6))],
        one: [timed(1.0, 2.0, 1.0, (0.5, 0.7))],
        processes: [timed(1.0, 3.0, 1.0, (0.5, 0.7))] * 2,
        many: [],
    }
    benchmark["check"](found)
    assert found[processes][0].per_hour == 3600 * 2 / 3
    found[processes][1] = timed(1.0, 3.0, 1.0, (0.5, 0.8))
    with pytest.raises(SystemExit, match="processes, 2 x 1 found other values"):
        benchmark["check"](found)
