"""Whether compiling pays: the estimate, what it depends on, and a run that keeps it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_adls.compiling import Machine, decide, machine, machines, remember_machine
from lightning_adls.compiling.decision import SECONDS_PER_KIND
from lightning_adls.compiling.machines import key_of, mark_compiled
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

SLOW = Machine(1e9, frozenset())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and nothing remembered."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(machines, "_remembered", {})
    machines._here.cache_clear()


def network(recipe: str = "", layers: int = 2) -> nn.Module:
    model = bert(vocab_size=9, hidden_size=16, num_hidden_layers=layers, intermediate_size=16)
    if recipe:
        Quantize({"*": recipe})(model)
    return model


def test_a_long_training_compiles_and_a_short_one_does_not() -> None:
    choices = [decide(network(), n, 4096, "32-true", SLOW).compile for n in (0, 10, 10**5)]
    assert choices == [False, False, "layers"]
    assert decide(network(), float("inf"), 4096, "32-true", SLOW).compile == "layers"


def test_the_reason_has_all_that_it_depends_on() -> None:
    reason = decide(network("MXInt(width=4)"), 10**6, 4096, "32-true", SLOW).reason
    assert reason.startswith("layers, 1e+06 steps save ")
    assert "% of" in reason
    assert reason.endswith("(cold cache)")


def test_less_is_asked_of_slow_formats_fast_machines_and_warm_caches() -> None:
    def least(model: nn.Module, where: Machine) -> int:
        """Steps from which on it compiles, to within a factor of two."""
        steps: list[int] = [2**n for n in range(60)]
        return next(n for n in steps if decide(model, n, 4096, "32-true", where).compile)

    usual = least(network("Integer(width=4)"), SLOW)
    assert least(network("LearnedInteger(width=4)"), SLOW) < usual
    assert least(network("Integer(width=4)"), Machine(1e12, frozenset())) > usual
    warm = Machine(1e9, frozenset({key_of(network("Integer(width=4)"), "32-true")}))
    assert least(network("Integer(width=4)"), warm) < usual
    assert least(network("Integer(width=5)"), warm) == usual, "other graphs"


def test_layers_that_differ_cost_more() -> None:
    mixed = network(layers=4)
    for number, width in enumerate((2, 3, 4, 5)):
        Quantize({f"*.layer.{number}.*": f"Integer(width={width})"})(mixed)
    reasons = [
        decide(model, 1, 1, "32-true", SLOW).reason
        for model in (network("Integer(width=2)", layers=4), mixed)
    ]
    costs = [float(reason.split("costs ")[1].split()[0]) for reason in reasons]
    assert costs[1] - costs[0] == pytest.approx(3 * SECONDS_PER_KIND["cold"])


def test_without_repeated_layers_it_says_so() -> None:
    found = decide(nn.Linear(2, 2), 10**9, 1, "32-true", SLOW)
    assert not found.compile
    assert "no repeated layers" in found.reason


def test_what_was_compiled_is_known_to_a_later_process() -> None:
    key = key_of(network(), "32-true")
    assert key not in machine("cpu").compiled
    mark_compiled(key)
    assert key not in machine("cpu").compiled, "looked up once per process"
    machines._here.cache_clear()
    assert key in machine("cpu").compiled
    assert key_of(network(), "bf16-mixed") != key


def test_a_run_remembers_the_machine_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    remember_machine(path)
    begun = machine("cpu")
    assert begun.flops_per_second > 0
    machines._remembered.clear()
    machines._here.cache_clear()
    mark_compiled("something")
    assert machine("cpu") != begun
    remember_machine(path)
    assert machine("cpu") == begun


def test_keys_do_not_depend_on_weights() -> None:
    torch.manual_seed(0)
    first = key_of(network("MXInt(width=4)"), "32-true")
    torch.manual_seed(1)
    assert key_of(network("MXInt(width=4)"), "32-true") == first
