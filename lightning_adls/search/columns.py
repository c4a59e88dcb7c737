"""What of a trial's choices is shown beside those of other trials: as few columns as tell it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from optuna.trial import FrozenTrial

from lightning_adls.search.space import Space

# TensorBoard shows five columns at first; the state of the trial is one of them.
MOST_CHOICES = 4

Columns = Mapping[str, str | float]


@runtime_checkable
class Summarised(Protocol):
    """A space whose trials choose too much to be shown choice by choice."""

    def overview(self, params: Mapping[str, Any], choice: Mapping[str, Any]) -> Columns | None:
        """What to show in place of a trial's parameters; None to show these.

        Args:
            params: Of the trial.
            choice: What :meth:`Choice.to_dict` gave.
        """


def columns_of(space: Space[Any], trial: FrozenTrial) -> Columns:
    """What a trial chose, by short names: what is fixed in its space is not among it."""
    choice = trial.user_attrs.get("choice")
    if isinstance(space, Summarised) and choice is not None:
        overview = space.overview(trial.params, choice)
        if overview is not None:
            return overview
    names = short_names(list(trial.params))
    return {names[name]: value for name, value in trial.params.items()}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts that all of them begin or end with.

    Example:
        >>> short_names(["bert.layer.0.weight", "bert.layer.1.weight"])
        {'bert.layer.0.weight': '0', 'bert.layer.1.weight': '1'}
        >>> short_names(["*.weight"])
        {'*.weight': 'weight'}
    """
    parts = [name.split(".") for name in names]
    for end in (0, -1):
        while parts and min(map(len, parts)) > 1 and len({each[end] for each in parts}) == 1:
            for each in parts:
                each.pop(end)
    return {name: ".".join(each) for name, each in zip(names, parts, strict=True)}
