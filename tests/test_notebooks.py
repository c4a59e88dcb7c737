"""The notebooks run as they stand, with small settings in the place of their own."""

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
    "lab0": {"ROWS": 2000, "WIDTH": 32, "START_EPOCHS": 1, "EPOCHS": 1},
    "lab1": {"ROWS": 2000, "WIDTH": 32, "WIDTHS": [2, 8], "SPARSITIES": [0.3, 0.9]},
    "lab2": {"ROWS": 4000, "TRIALS": 2},
    "lab3": {"ROWS": 2000, "WIDTH": 32, "TRIALS": 2, "WIDTHS": [2, 4, 8], "BUDGETS": [3, 6]},
    "lab4": {
        "BACKEND": "aot_eager",
        "WIDTH": 32,
        "VOCABULARY": 1000,
        "LENGTHS": [16, 64],
        "ROUNDS": 2,
    },
}
# It reads the last table, in the kernel.
RESULTS = "results.to_json()"


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
    notebook.cells.append(nbformat.v4.new_code_cell(f"print({RESULTS})"))
    manager, client = kernel
    runner = NotebookClient(notebook, km=manager, timeout=300)
    runner.kc = client
    return runner.execute()
