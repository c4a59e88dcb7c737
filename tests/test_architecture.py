"""Who may import whom, and what an import costs."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lightning_adls.commands.table import COMMANDS

PACKAGE = Path(__file__).parent.parent / "lightning_adls"

# From the top down; a part may import from its own level's folder and from all levels below.
LEVELS = (
    {"commands"},
    {"labs"},
    {"supernet"},
    {"search", "bench"},
    {"callbacks", "budget", "events", "export", "loggers"},
    {"figures", "report"},
    {"classifier", "data", "devices", "mase"},
    {"checkpoints", "compiling", "planning"},
    {"models", "transforms"},
    {"layers"},
    {"kernels"},
    {"formats"},
    {"engines"},
    {
        *("distillation", "hub", "locks", "optimizers", "process", "remaining", "settings"),
        *("significance", "threads", "weights"),
    },
    {"errors"},
)
ONLY_IN = {
    "lightning": {
        *("checkpoints", "classifier", "data", "devices", "budget", "callbacks", "loggers"),
        *("search", "supernet", "labs", "commands"),
    },
    # In layers, the quantised form of its own layer, for who has such a layer.
    "transformers": {"models", "data", "layers"},
    "optuna": {"search", "callbacks", "labs", "commands"},
    "optuna_integration": {"callbacks"},
    "matplotlib": {"figures"},
    "peft": {"transforms"},
    "triton": {"kernels"},
    "datasets": {"data"},
    "chop": {"layers"},
    "loky": {"engines"},
    "cloudpickle": {"engines"},
    "compressed_tensors": {"export"},
    "ray": {"engines"},
    "onnxruntime": {"export"},
}
# Where `__getattr__` imports what is asked for.
LAZY = {"__init__.py", "export/__init__.py", "search/__init__.py"}
IMPORTS = re.compile(r"\b(__import__|import_module)$")


def part(module: str) -> str:
    """``lightning_adls.search.study`` belongs to ``search``."""
    return module.split(".")[1]


def imports() -> list[tuple[str, str]]:
    """Pairs of a part of the package and a module that it imports, also within functions."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(where, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "lightning_adls":
                found += [(where, f"lightning_adls.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found.append((where, str(node.module)))
    return [(where, module) for where, module in found if where not in ("__init__", "__main__")]


def level(name: str) -> int:
    return next(n for n, names in enumerate(LEVELS) if name in names)


def test_every_part_has_a_level() -> None:
    parts = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in PACKAGE.rglob("*.py")}
    assert parts - {"__init__", "__main__"} == set().union(*LEVELS)


def test_imports_go_downwards_only() -> None:
    wrong = [
        (where, module)
        for where, module in imports()
        if module.startswith("lightning_adls.")
        and part(module) != where
        and level(part(module)) <= level(where)
    ]
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = {where for where, module in imports() if module.split(".")[0] == library}
    assert users <= ONLY_IN[library]
    assert users, "a rule about a library that nobody uses"


def test_nothing_needs_the_configs_of_mase() -> None:
    users = {where for where, module in imports() if module.startswith("lightning_adls.mase")}
    assert users == {"mase"}


def test_what_is_imported_stands_in_an_import_statement() -> None:
    # A name put together from strings is an import that nobody sees; the packages' lists of what
    # they bring when it is first used, commands and networks that a user names, are the exceptions.
    hidden = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and IMPORTS.search(ast.unparse(node.func))
    }
    assert hidden == LAZY | {"commands/start.py", "labs/network.py"}


def test_wrong_input_has_an_error_of_its_own() -> None:
    # The scripts tell it by that from faults of the package, which come with their traceback.
    plain = {"ValueError", "FileNotFoundError", "ImportError"}
    raised = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in plain
    }
    assert raised == set()


HEAVY = {"torch", "transformers", "datasets", "optuna", "matplotlib", "lightning", "torchmetrics"}


@pytest.mark.parametrize(
    "statements",
    [
        # Each brings all that the ones before it did.
        {
            "import lightning_adls": set(),
            "from lightning_adls.formats import Integer": {"torch"},
            "from lightning_adls import QuantizedLinear, Quantize": {"torch"},
            "from lightning_adls.mase import LinearInteger": {"torch"},
        },
        {"import lightning_adls.search.reading, lightning_adls.search.lease": {"optuna"}},
    ],
)
def test_an_import_brings_only_what_it_needs(statements: dict[str, set[str]]) -> None:
    for (statement, allowed), modules in zip(
        statements.items(), modules_after(*statements), strict=True
    ):
        assert HEAVY & modules == allowed, statement


def test_only_a_recipe_that_asks_for_mase_brings_its_layers() -> None:
    before, after = modules_after(
        "from lightning_adls import Quantize, layers",
        "Quantize({'*': 'Integer'}, backend='mase')",
    )
    assert not {name for name in before if ".mase" in name}
    assert "lightning_adls.layers.mase.linear" in after


def modules_after(*statements: str) -> list[set[str]]:
    """What is imported after each statement, one after the other in a process of their own."""
    code = "import sys\n" + "\n".join(f"{each}\nprint(*sys.modules)" for each in statements)
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return [{*line.split()} for line in output.stdout.splitlines()]


@pytest.mark.parametrize("lazy", sorted(LAZY))
def test_public_names_are_the_same_to_a_type_checker_and_at_run_time(lazy: str) -> None:
    tree = ast.parse((PACKAGE / lazy).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    package = import_module(".".join(("lightning_adls", *Path(lazy).parts[:-1])))
    assert set(seen) == set(package.__all__)
    for name, module in seen.items():
        assert getattr(import_module(str(module)), str(name)) is getattr(package, str(name))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_public_names_are_what_they_are_called() -> None:
    import lightning_adls

    for name in lightning_adls.__all__:
        assert getattr(lightning_adls, name).__name__.rpartition(".")[2] == name


@pytest.mark.long
def test_layers_of_transformers_are_imported_for_who_has_one() -> None:
    code = """
import sys
from torch import nn
from lightning_adls import Quantize
from lightning_adls.layers import is_kind
model = nn.Sequential(nn.Linear(4, 4))
Quantize({"*": "Integer"})(model)
assert not is_kind(model[0], "TransformersConv1D")
print("transformers" in sys.modules)
from transformers.pytorch_utils import Conv1D
model.append(Conv1D(4, 4))
Quantize({"*": "Integer"})(model)
print(type(model[1]).__name__, isinstance(model[1], Conv1D))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", "QuantizedTransformersConv1D", "True"]


@pytest.mark.parametrize(
    "script", sorted((PACKAGE.parent / "scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_scripts_do_nothing_but_start_the_command_of_their_yaml(script: Path) -> None:
    started = re.findall(r'start\("(\w+)"\)', script.read_text())
    assert started == [n for n, c in COMMANDS.items() if (c.config or n) == script.stem]
    (imported,) = imports_of(script)
    assert imported == "from lightning_adls.commands.start import start"


def test_how_threads_wait_is_said_before_torch_is_imported() -> None:
    first = imports_of(PACKAGE / "commands" / "start.py")[0]
    assert first == "import lightning_adls.labs.waiting"


def imports_of(path: Path) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("before", "statement", "after"),
    [
        ({}, "import lightning_adls.labs.waiting", "PASSIVE 3000"),
        ({"GOMP_SPINCOUNT": "7"}, "import lightning_adls.labs.waiting", "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "import lightning_adls.labs.waiting", "ACTIVE None"),
        ({}, "import lightning_adls, lightning_adls.layers", "None None"),
    ],
)
def test_only_scripts_change_how_threads_wait_and_the_user_wins(
    before: dict[str, str], statement: str, after: str
) -> None:
    code = f"import os, sys; {statement}; print(*map(os.environ.get, {NAMES}))"
    if after.startswith("PASSIVE"):
        code += "; assert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent), **before},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == after
