"""Every block of Python in the documentation runs, and prints what stands below it."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks_of, indented_of, name_of
from printed import differences
from running import PageRun

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
    "docs/adding.md": ["these lines begin a script, and are tried in those of scripts/."],
    "docs/howto/csv.md": ["downloads a BERT from the hub."],
    "docs/howto/several_gpus.md": ["needs two GPUs.", "needs two GPUs."],
    "docs/labs/lab3_mase.md": [
        "reads two runs of hours.",
        "reads a checkpoint that was trained on IMDB.",
    ],
    "docs/results.md": [
        "reads a run of minutes; docs/howto/results_in_python.md reads a small one."
    ],
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
    page = PageRun(name, SHORTER.get(name, ("", "")))
    for block in PYTHON[name]:
        if block.reason is None:
            page.run(block)


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


def indented_python(text: str) -> Iterator[str]:
    """Blocks without a fence that are Python, as far as a compiler can tell."""
    for code in indented_of(text):
        try:
            compile(code, "", "exec")
        except SyntaxError:
            continue
        yield code


def test_python_stands_in_fences_that_tests_find() -> None:
    assert [*indented_python("So:\n\n    make lab1\n\n    x = 1\n    print(x)\n")] == [
        "x = 1\nprint(x)\n"
    ]
    for page in PAGES:
        assert [*indented_python(page.read_text(encoding="utf-8"))] == [], page
        text = page.read_text(encoding="utf-8")
        assert text.count("```python") == len(PYTHON[name_of(page)]), (
            f"{page} has an indented fence"
        )
