"""Every block of Python in the documentation runs, and prints what stands below it."""

import doctest
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks_of, name_of

from lightning_adls.formats import NumberFormat

# Pages whose blocks need something beside them: files, a shorter training, a class that is missing.
ELSEWHERE = {
    "docs/adding.md": "tests/test_guide.py",
    "docs/budget.md": "tests/test_guide.py",
    "docs/callbacks.md": "tests/test_guide.py",
    "docs/distillation.md": "tests/test_guide.py",
    "docs/formats.md": "tests/formats/test_docs.py",
    "docs/labs/lab3_mase.md": "tests/test_guide.py",
    "docs/labs/lab4.md": "tests/test_guide.py",
    "docs/models.md": "tests/test_guide.py",
    "docs/reuse.md": "tests/test_guide.py",
    "docs/statistics.md": "tests/test_guide.py",
}
PYTHON = {
    name_of(page): [block for block in blocks_of(page) if block.language == "python"]
    for page in PAGES
}
RUN_HERE = [
    name
    for name, blocks in PYTHON.items()
    if name not in ELSEWHERE and any(block.reason is None for block in blocks)
]
# All that are not run anywhere; each says why in its first line.
NOT_RUN = {
    "docs/howto/csv.md": ["downloads a BERT from the hub."],
    "docs/howto/several_gpus.md": ["needs two GPUs.", "needs two GPUs."],
    "docs/search.md": [
        "downloads a checkpoint from the hub.",
        "starts two processes; tests/search/test_parallel.py runs such searches.",
    ],
}
# The tutorial trains with these settings as long as it says.
SHORTER = {"README.md": ("max_epochs=6", "max_epochs=1, limit_train_batches=20")}
# Reads a run, which a small one stands for.
RESULTS = "docs/howto/results_in_python.md"
RUN = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64", "--run=short"),
    *("--widths=[8]", "--frac_widths=[half]", "--sparsities=[]", "--structured=[]"),
    *("--finetune.epochs=1", "--finetune.reports=1", "--qat.epochs=1"),
]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lightning tells of devices and of data that are few; it is no output of the blocks."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("name", RUN_HERE)
def test_the_blocks_of_a_page_run_as_one_script_and_print_what_it_says(
    name: str,
    run: Callable[..., int],
    cache_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)
    monkeypatch.setattr(NumberFormat, "classes", dict(NumberFormat.classes))
    if name == RESULTS:
        assert run(ROOT / "scripts" / "lab1_compression.py", *RUN) == 0
        capsys.readouterr()
    page: dict[str, object] = {"__name__": "page"}
    for block in PYTHON[name]:
        if block.reason is not None:
            continue
        where = f"{block.page}:{block.line}"
        if block.is_session:
            session = doctest.DocTestParser().get_doctest(block.code, page, name, name, block.line)
            assert doctest.DocTestRunner().run(session, clear_globs=False).failed == 0, where
            page.update(session.globs)
            continue
        code, shorter = block.code, SHORTER.get(name, ("", ""))
        is_shorter = bool(shorter[0]) and shorter[0] in code
        # Lines are counted as in the page, for tracebacks.
        exec(compile("\n" * (block.line - 1) + code.replace(*shorter), name, "exec"), page)
        printed = capsys.readouterr().out
        if block.output is not None and is_shorter:
            assert len(_lines(printed)) == len(_lines(block.output)), where
        elif block.output is not None:
            assert differences(block.output, printed) == [], where


def differences(expected: str, printed: str) -> list[str]:
    """Lines that differ; ``...`` stands for any text of a line.

    Whole numbers have to be the same. Others may be a tenth off: trainings end a little elsewhere
    on another machine.
    """
    wanted, found = _lines(expected), _lines(printed)
    if len(wanted) != len(found):
        return [f"{len(wanted)} lines are expected, {len(found)} were printed:", *found]
    return [
        f"{line!r} is expected, {other!r} was printed"
        for line, other in zip(wanted, found, strict=True)
        if not _alike(line, other)
    ]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines() if line.strip()]


def _alike(expected: str, printed: str) -> bool:
    pattern = re.escape(_NUMBER.sub("0", expected)).replace(re.escape("..."), ".*")
    if not re.fullmatch(pattern, _NUMBER.sub("0", printed)):
        return False
    if "..." in expected:
        return True
    for wanted, found in zip(_NUMBER.findall(expected), _NUMBER.findall(printed), strict=True):
        whole = wanted.lstrip("-").isdigit() and found.lstrip("-").isdigit()
        off = abs(float(wanted) - float(found))
        if (whole and off) or off > 0.1 * max(abs(float(wanted)), abs(float(found))):
            return False
    return True


def test_another_number_another_word_and_a_missing_line_are_differences() -> None:
    shown = "accuracy 0.91\n4 layers\n..."
    assert differences(shown, "accuracy 0.93\n4 layers\nwhatever\n") == []
    assert len(differences(shown, "accuracy 0.71\n4 layers\nwhatever\n")) == 1
    assert len(differences(shown, "accuracy 0.91\n5 layers\nwhatever\n")) == 1
    assert len(differences(shown, "loss 0.91\n4 layers\nwhatever\n")) == 1
    assert differences(shown, "accuracy 0.91\n4 layers\n")


def test_the_blocks_that_no_test_runs_are_these_and_say_why() -> None:
    found: dict[str, list[str]] = {}
    for name, blocks in PYTHON.items():
        if reasons := [block.reason for block in blocks if block.reason is not None]:
            found[name] = reasons
    assert found == NOT_RUN


def test_pages_that_other_tests_run_are_read_by_them() -> None:
    for name, test in ELSEWHERE.items():
        assert any(block.reason is None for block in PYTHON[name]), f"{name} has nothing to run"
        assert Path(name).name in (ROOT / test).read_text(encoding="utf-8")


def test_python_stands_in_fences_that_tests_find() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```python") == len(PYTHON[name_of(page)]), (
            f"{page} has an indented fence"
        )
