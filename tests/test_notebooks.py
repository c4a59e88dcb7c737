"""The notebooks run as they stand, with small settings in the place of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
# What stands in the cell tagged "parameters", so small that all notebooks take a minute.
SMALL: dict[str, dict[str, Any]] = {
    "lab0": {"ROWS": 2000, "VAL_ROWS": 200, "WIDTH": 32, "START_EPOCHS": 1, "EPOCHS": 1},
    "lab1": {
        "ROWS": 2000,
        "VAL_ROWS": 200,
        "WIDTH": 32,
        "WIDTHS": [2, 8],
        "SPARSITIES": [0.3, 0.9],
    },
    "lab2": {"ROWS": 4000, "VAL_ROWS": 200, "TRIALS": 1},
    "lab3": {
        "ROWS": 2000,
        "VAL_ROWS": 200,
        "WIDTH": 32,
        "TRIALS": 2,
        "WIDTHS": [2, 4, 8],
        "BUDGETS": [3, 6],
    },
    "lab4": {
        "BACKEND": "aot_eager",
        "WIDTH": 32,
        "VOCABULARY": 1000,
        "LENGTHS": [16, 64],
        "ROUNDS": 2,
        "LEAST_BYTES": 0,
    },
}
# Of the last table.
COLUMNS = {
    "lab0": {"accuracy", "trainable", "of"},
    "lab1": {"PTQ, half", "PTQ, calibrated", "QAT, half"},
    "lab2": {"best in float32", "best compressed"},
    "lab3": {"bits per weight", "accuracy"},
    "lab4": {"float32", "packed"},
}
# Those that hold accuracies of trained models.
TRAINED = {
    "lab0": ["accuracy"],
    "lab1": ["PTQ, calibrated"],
    "lab2": ["best in float32"],
    "lab3": ["accuracy"],
}


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[KernelManager, Any]]:
    """One for all notebooks: to import torch and Lightning takes the longest."""
    manager, client = start_new_kernel()
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def with_parameters(notebook: NotebookNode, given: dict[str, Any]) -> None:
    """Put values behind the cell of parameters, as papermill does.

    Raises:
        KeyError: If that cell has no such name.
    """
    (place,) = [
        n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    own: dict[str, Any] = {}
    exec(notebook.cells[place].source, own)
    for name in given:
        own[name]
    lines = [f"{name} = {value!r}" for name, value in given.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))


def execute(
    name: str, given: dict[str, Any], folder: Path, kernel: tuple[KernelManager, Any]
) -> NotebookNode:
    """Convert a notebook and execute it in a folder."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    with_parameters(notebook, given)
    # Names of another notebook are gone; what it imported stays imported.
    first = f"%reset -f\n%cd -q {folder}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    notebook.cells.append(nbformat.v4.new_code_cell("print(results.to_json())"))
    manager, client = kernel
    runner = NotebookClient(notebook, km=manager, timeout=300)
    runner.kc = client
    return runner.execute()


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_and_ends_with_its_table(
    name: str, tmp_path: Path, kernel: tuple[KernelManager, Any]
) -> None:
    notebook = execute(name, SMALL[name], tmp_path, kernel)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = [output.text for output in shown if output.output_type == "stream"]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert all(output.metadata["image/png"]["width"] > 300 for output in pictures)
    assert not [output.text for output in shown if output.get("name") == "stderr"], "it is quiet"
    # The last cell of the notebook itself that shows something shows the table.
    table = json.loads(said[-1])
    assert set(table) == COLUMNS[name]
    for column in TRAINED.get(name, ()):
        best = max(value for value in table[column].values() if isinstance(value, float))
        assert best > 0.55, "better than guessing"
    if name == "lab4":
        saved = table["float32"]["all"] - table["packed"]["all"]
        assert saved == pytest.approx(
            table["float32"]["linear_weights"] * (1 - 8.25 / 32), rel=0.02
        )


def test_every_notebook_is_run_and_listed() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == set(SMALL)
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"{name}.py" in index for name in names)


def test_a_parameter_that_a_notebook_lacks_is_refused() -> None:
    notebook = jupytext.read(FOLDER / "lab0.py")
    with pytest.raises(KeyError, match="ROW"):
        with_parameters(notebook, {"ROW": 1})
