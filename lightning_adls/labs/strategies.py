"""How the studies of Lab 3 choose their recipes, and what their searches are called."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Strategy = Literal["per_layer", "plan", "one_shot"]

SCORES = "scores.json"  # of the formats of all plans of a run, in its folder

# The searches of a study, by strategy: what is added to the name of the study.
SEARCHES: dict[str, tuple[str, ...]] = {
    "per_layer": ("",),
    "plan": ("_plan",),
    "one_shot": ("_one_shot", "_finished"),
}


def searches_of(study: str, strategy: str) -> list[str]:
    """Names of the searches that a strategy has for a study, in their order."""
    return [study + suffix for suffix in SEARCHES[strategy]]


def trials_of(search: str, config: Mapping[str, Any]) -> int:
    """How many trials a search is to have.

    Args:
        search: Its name.
        config: Arguments of the lab.
    """
    judged, finished = SEARCHES["one_shot"]
    for study in config["studies"]:
        if search == study + judged:
            return int(config["one_shot"]["evaluations"])
        if search == study + finished:
            return int(config["one_shot"]["finish"])
    return int(config["trials"])


def study_of(search: str, studies: Sequence[str]) -> tuple[str, str]:
    """The study and the strategy of a search; a study may have a name that ends like one.

    Raises:
        KeyError: If it is none of theirs.
    """
    found = {
        name: (study, strategy)
        for study in studies
        for strategy in SEARCHES
        for name in searches_of(study, strategy)
    }
    return found[search]
