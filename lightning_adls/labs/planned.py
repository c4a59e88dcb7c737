"""The recipes that a study of Lab 3 tries where they are planned: one for each of some budgets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.labs.task import NETWORK, Task
from lightning_adls.layers import ROLES
from lightning_adls.planning import Plan, Scores, check_plan, plan, rows_of, sensitivity
from lightning_adls.planning.candidates import FreeChoice
from lightning_adls.report import Row
from lightning_adls.search import FormatSpace
from lightning_adls.search.format_space import NONE
from lightning_adls.search.recipe_costs import RecipeCosts
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import linear_layers, match


@dataclass(frozen=True)
class Planning:
    """What a plan may spend on knowing its layers.

    Args:
        samples: Training texts that scores are of.
        checks: Random plans that are measured beside the plan, on as many other texts.

    Raises:
        InputValueError: If there are no samples, or fewer than three checks.
    """

    samples: int = 32
    checks: int = 10

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputValueError(f"planning: samples={self.samples} is below 1.")
        if self.checks < 3:
            raise InputValueError(f"planning: checks={self.checks} is below 3.")


@dataclass(frozen=True)
class Formats:
    """What the layers of a network may be given in a study, as plans take it.

    Args:
        space: Of the study.
        layers: Names of the layers of the network that it is about.
    """

    space: FormatSpace
    layers: Sequence[str]

    @property
    def choices(self) -> list[FreeChoice]:
        """For each class the formats of each tensor, of which it is given one."""
        return [
            {role: [None if t == NONE else t for t in roles[role]] for role in ROLES}
            for roles in self.space.classes.values()
        ]

    @property
    def groups(self) -> dict[str, list[str]]:
        """By pattern of the space, the layers that share a choice; the last that matches counts."""
        patterns = {pattern: pattern for pattern in self.space.layers}
        found: dict[str, list[str]] = {}
        for layer, pattern in match(self.layers, patterns, "layers").items():
            found.setdefault(pattern, []).append(layer)
        return found

    def arguments(self, module: TextClassifier) -> dict[str, Any]:
        """What :func:`plan` takes beside the model and the formats."""
        names = {f"{NETWORK}.{layer}" for layer in self.layers}
        others = [name for name in linear_layers(module) if name not in names]
        groups = [[f"{NETWORK}.{name}" for name in group] for group in self.groups.values()]
        return {"groups": groups, "keep": list(map(escape, others)), "kinds": ("Linear",)}

    def params(self, found: Plan) -> dict[str, str]:
        """The parameters of the trial that tries a plan."""
        given = {
            pattern: found.recipe.layers[escape(f"{NETWORK}.{names[0]}")]
            for pattern, names in self.groups.items()
        }
        # Patterns that no layer is left for are free to be anything.
        first = next(iter(given.values()))
        recipe = {pattern: given.get(pattern, first) for pattern in self.space.layers}
        return self.space.params_of(Quantize(recipe))


def above_budget(task: Task, spaces: Mapping[str, FormatSpace], bits: float) -> dict[str, float]:
    """The studies whose formats are too large for a budget, with the fewest bits of each.

    Args:
        task: Has the network.
        spaces: Of the studies.
        bits: Most bits per weight.
    """
    costs = RecipeCosts(task.network)
    least = {name: costs.least(space)["bits_per_weight"] for name, space in spaces.items()}
    return {name: fewest for name, fewest in least.items() if fewest > bits}


def planned(
    task: Task,
    formats: Formats,
    *,
    bits: float | None,
    trials: int,
    planning: Planning,
    kept: Path,
) -> Row:
    """Score, plan for several budgets, and measure the first plan: the work of a step.

    Args:
        task: Its model is planned for, with its starting weights.
        formats: What may be chosen.
        bits: The largest budget, in bits per weight; None for as many as help.
        trials: How many different plans to make, at most.
        planning: What it may spend.
        kept: File of scores, which other studies of the run share.

    Returns:
        ``plans``, each with ``params``, ``bits_per_weight`` and ``predicted``; ``check``, what was
        predicted and measured of the first and of random ones; ``says``, the same in words.
    """
    module = task.build()
    scored, fresh = _samples(task, planning.samples)
    names = list(map(escape, (f"{NETWORK}.{layer}" for layer in formats.layers)))
    known = Scores.load(kept) if kept.is_file() else None
    scores = sensitivity(
        module, scored, formats.choices, layers=names, kinds=("Linear",), known=known
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    scores.save(kept)
    arguments = formats.arguments(module)
    most = plan(module, scores, formats.choices, bits_per_weight=1e9, **arguments).cost
    least = RecipeCosts(task.network).least(formats.space)["bits_per_weight"]
    largest = most if bits is None else min(bits, most)
    found: dict[str, Plan] = {}
    for budget in islice(_spread(least, largest), 8 * trials):
        each = plan(module, scores, formats.choices, bits_per_weight=budget, **arguments)
        found.setdefault(str(each.recipe), each)
        if len(found) == trials:
            break
    first, *_ = plans = list(found.values())
    check = check_plan(module, fresh, scores, first, plans=planning.checks, seed=task.seed)
    return {
        "plans": [
            {
                "params": formats.params(each),
                "bits_per_weight": each.cost,
                "predicted": each.predicted,
            }
            for each in plans
        ],
        "check": check.rows(),
        "says": f"{first.cost:.3g} bits per weight, KL divergence: {check}".replace("\n", "; "),
    }


def _samples(task: Task, count: int) -> tuple[list[Any], list[Any]]:
    """Training texts, one by one, and as many others."""
    L.seed_everything(task.seed, verbose=False)
    rows = (row for batch in task.texts.train_dataloader() for row in rows_of(batch))
    found = list(islice(rows, 2 * count))
    half = len(found) // 2
    return found[:half], found[half:]


def _spread(low: float, high: float) -> Iterator[float]:
    """The ends, the larger first, then ever smaller parts between: any first few are spread."""
    yield high
    yield low
    parts = 2
    while True:
        yield from (low + (high - low) * odd / parts for odd in range(1, parts, 2))
        parts *= 2


def proposals(row: Row) -> list[Mapping[str, Any]]:
    """The parameters of the trials of a step that :func:`planned` was the work of."""
    return [each["params"] for each in row["plans"]]
