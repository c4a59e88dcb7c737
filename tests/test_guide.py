"""The examples of the user guide run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "callbacks.md"


def test_the_examples_of_the_callbacks_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
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
