"""The examples of the user guide run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "callbacks.md"


def test_the_examples_of_the_callbacks_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = _examples(PAGE)
    page: dict[str, object] = {"__name__": "page"}
    exec(compile(first, PAGE.name, "exec"), page)
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "MXInt(width=6, block_size=32)" in printed
    from lightning_adls.transforms.cost import sparsity_of

    module = page["module"]
    assert sparsity_of(module) == pytest.approx(0.8, abs=1e-3)  # type: ignore[arg-type]
    exec(compile(second, PAGE.name, "exec"), page)
    assert "frac_width" in (tmp_path / "recipe.yaml").read_text()


def test_the_example_of_lab_4_measures_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _examples(DOCS / "labs" / "lab4.md")
    page: dict[str, Any] = {}
    exec(compile(example, "lab4.md", "exec"), page)
    assert [row["variant"] for row in page["rows"]] == [
        "eager float32",
        "compiled aot_eager float32",
    ]
    assert all(row["training"] and row["error"] is None for row in page["rows"])
    assert page["rows"][1]["max_relative_error"] < 1e-3
    assert capsys.readouterr().out


def test_the_example_of_lab_3_in_mase_shows_its_faults(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _examples(DOCS / "labs" / "lab3_mase.md")
    exec(compile(example, "lab3_mase.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    shares = [float(re.search(r"zeros +([\d.]+)%", line)[1]) for line in lines]  # type: ignore[index]
    standard, mase = shares[::2], shares[1::2]
    assert standard[0] == 0
    assert mase[0] > 90, "the inverted bias of BlockMinifloat"
    assert standard[2] > 90
    assert mase[2] == 0, "Log has no zero"


def _examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
