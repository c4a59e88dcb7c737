"""The examples of docs/formats.md, run as they stand."""

import doctest
import re
from pathlib import Path

import pytest
import torch

from lightning_adls.formats import NumberFormat, parse

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SESSIONS = [block for block in BLOCKS if block.startswith(">>>")]
CLASSES = [block for block in BLOCKS if "class " in block]


def test_sessions_print_what_the_page_says() -> None:
    test = doctest.DocTestParser().get_doctest("".join(SESSIONS), {}, PAGE.name, str(PAGE), 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted >= 10
    assert result.failed == 0


def test_the_class_of_the_page_is_a_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumberFormat, "classes", dict(NumberFormat.classes))
    for block in CLASSES:
        exec(compile(block, PAGE.name, "exec"), {"__name__": "page"})
    fmt, x = parse("Steps(width=3)"), torch.tensor([-1.0, 0.6, 9.0])
    assert fmt(x).tolist() == [0.0, 0.5, 3.5]
    assert torch.equal(fmt.decode(fmt.encode(x)), fmt(x))
