"""The parts of Lab 4 from Python: each measures, shows and draws by itself."""

from pathlib import Path
from typing import Any

import pytest

from lightning_adls import figures, report
from lightning_adls.bench import Results, Rounds, Variant
from lightning_adls.bench.experiments import EXTRA_KEYS, Attention, Compiling, Packing, Part
from lightning_adls.bench.experiments.part import Columns, Table, tables_of
from lightning_adls.labs.tables import table
from lightning_adls.models import bert

ONCE = Rounds(timed=1, warmup=0)
ATTENTION = Attention(backends=["math"], batch=2, heads=2, head_size=4, lengths=[6, 12])
PACKING = Packing(shapes=[(8, 40)], batches=[3])
COMPILING = Compiling(
    backends=["eager"], formats=[], batch=2, tokens=8, few=2, lengths=[3, 8], multiples=[1]
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, EXTRA_KEYS, {})


def drawn(part: Part, results: Results, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of its figures, without the work."""
    files: list[str] = []
    for name in ("draw_bars", "draw_points"):
        monkeypatch.setattr(figures, name, lambda path, *_, **__: files.append(path.stem))
    monkeypatch.setattr(report, "log_curves", lambda *_: None)
    part.draw(results)
    return files


def test_attention_alone(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    ATTENTION.measure(results, [Variant()], ONCE, "cpu")
    tables = list(ATTENTION.tables(results))
    assert [shown.title for shown in tables] == [
        f"attention: {experiment}, cpu, mask: {mask}"
        for experiment in ("forward", "forward+backward")
        for mask in ("none", "padding")
    ]
    for shown in tables:
        assert list(shown.columns)[2:4] == ["6", "12"]
        assert [line["target"] for line in shown.records] == ["naive", "sdpa", "sdpa math"]
        assert all(line["6"] and line["12"] for line in shown.records)
    assert len(drawn(ATTENTION, results, monkeypatch)) == 8


def test_packing_alone(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    PACKING.measure(results, [Variant()], ONCE, "cpu")
    assert PACKING.explain(results) == "", "no model was packed"
    PACKING.count_bytes(results, bert(vocab_size=50, hidden_size=16, num_hidden_layers=1))
    titles = [shown.title for shown in PACKING.tables(results)]
    assert titles == [
        "mxint8: operators, cpu, float32",
        "mxint8: linear, cpu",
        "mxint8: memory, any, float32",
    ]
    assert PACKING.explain(results).startswith("(32 - 8.25)/32 = 74.22% holds for")
    figures = ["mxint8_operators_cpu", "mxint8_linear_cpu", "mxint8_memory"]
    assert drawn(PACKING, results, monkeypatch) == figures


def add_compiled(results: Results, experiment: str, **found: Any) -> None:
    record = {"target": "BERT", "device": "cpu", "dtype": "float32", **found}
    results.add("compile", experiment, [record])


def test_compiling_says_how_the_wrong_measurement_misleads(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = "compiled eager float32"
    add_compiled(results, "few calls", variant="eager float32", first_call_ms=5, mean_ms=5.0)
    add_compiled(results, "few calls", variant=compiled, first_call_ms=998, mean_ms=500.0)
    add_compiled(
        results,
        "steady",
        variant=compiled,
        first_call_ms=900,
        median_ms=2.0,
        compile_ms=898.0,
        speedup_over_eager=2.5,
        break_even_steps=300.0,
    )
    said = COMPILING.explain(results)
    assert "by the mean of the first calls 0.01 times as fast as eager" in said
    assert "by the median of steady ones 2.5 times" in said
    assert "took 998 ms, to start the compiler and to compile, which alone takes 898 ms" in said
    few, steady = COMPILING.tables(results)
    assert [line["run"] for line in few.records] == ["eager", "eager"]
    (line,) = steady.records
    assert (line["compile_s"], line["step_ms"], line["break_even"]) == (0.898, 2.0, "300")
    figures = ["compile_cpu", "compile_mean_cpu"]
    assert drawn(COMPILING, results, monkeypatch) == figures, "no lengths were measured"


def test_compiling_refuses_a_network_with_too_few_positions() -> None:
    network = bert(vocab_size=50, hidden_size=16, num_hidden_layers=1, max_position_embeddings=8)
    COMPILING.check(network)
    longer = Compiling(["eager"], [], 2, tokens=8, few=2, lengths=[3], multiples=[1, 16])
    with pytest.raises(ValueError, match="max_length=16 is above the 8 positions"):
        longer.check(network)


def test_data_types_without_a_column_get_tables_of_their_own(results: Results) -> None:
    for dtype in ("float32", "bfloat16"):
        record = {"target": "BERT", "device": "cpu", "dtype": dtype}
        results.add("part", "forward", [record])
    target: Columns = {"target": ("target", "")}
    apart = list(tables_of(results, "part", {"forward": target}))
    assert [shown.title[-8:] for shown in apart] == [" float32", "bfloat16"]
    together = tables_of(results, "part", {"forward": {**target, "dtype": ("dtype", "")}})
    assert [len(shown.records) for shown in together] == [2]


def test_a_table_can_be_printed() -> None:
    shown = Table("title", [{"batch": 3}], {"batch": ("batch", "d")})
    assert table(*shown).row_count == 1


def test_no_key_is_said_twice() -> None:
    assert len(set(EXTRA_KEYS)) == len(EXTRA_KEYS)
