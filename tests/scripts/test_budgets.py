"""Every budget of every lab is checked before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS, COMMANDS = ROOT / "scripts", ROOT / "lightning_adls/commands"
BUDGETS = {
    "lab0_finetune": ["pretraining", "budget", "lora_budget"],
    "lab1_compression": ["finetune", "qat", "retrain"],
    "lab2_nas": ["budget", "retrain"],
    "lab3_mixed_precision": ["finetune", "budget"],
}


@pytest.mark.parametrize(
    ("script", "budget"), [(script, name) for script, names in BUDGETS.items() for name in names]
)
def test_a_budget_that_this_machine_cannot_give_is_refused_in_one_line(
    refused: Callable[..., str], cache_dir: str, script: str, budget: str
) -> None:
    cache = f"--data.cache_dir={cache_dir}"
    error = refused(SCRIPTS / f"{script}.py", f"--{budget}.accelerator=abacus", cache)
    assert "accelerator='abacus'" in error


@pytest.mark.parametrize("script", BUDGETS)
def test_the_budgets_of_a_lab_are_all_in_the_list(script: str) -> None:
    source = (COMMANDS / f"{script.partition('_')[0]}.py").read_text(encoding="utf-8")
    signature = source.partition("def run_lab(")[2].partition("->")[0]
    lines = [line.strip() for line in signature.splitlines() if ": Budget" in line]
    assert {line.partition(":")[0] for line in lines} == set(BUDGETS[script])
