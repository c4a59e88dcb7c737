"""What Labs 2 and 3 say alike of a search."""

from collections.abc import Mapping, Sequence

from lightning_adls.labs.drawing.searches import best
from lightning_adls.report import Row
from lightning_adls.significance import standard_error_of_mean


def course(study: str, trials: Sequence[Row]) -> str:
    """When a study found its best, and how its trials ended.

    Example:
        >>> trials = [
        ...     {"trial": 1, "state": "complete", "value": 0.8, "running_best": 0.8},
        ...     {"trial": 2, "state": "pruned", "value": 0.5, "running_best": 0.8},
        ... ]
        >>> course("Integer", trials)
        'Integer: best at trial 1 of 2; 1 pruned.'
    """
    winner = best(trials)
    ends = {state: sum(t["state"] == state for t in trials) for state in ("pruned", "fail")}
    words = {"pruned": "pruned", "fail": "failed"}
    more = "".join(f"; {n} {words[state]}" for state, n in ends.items() if n)
    if winner is None:
        return f"{study}: none of {len(trials)} trials completed{more}."
    return f"{study}: best at trial {winner['trial']} of {len(trials)}{more}."


def spread(values: Sequence[float]) -> str:
    """Mean of the values of several seeds with its standard error, and their range.

    Example:
        >>> spread([0.8, 0.9])
        '85.0 ± 5.0 % (80.0 to 90.0 %, 2 seeds)'
    """
    mean = sum(values) / len(values)
    error, low, high = standard_error_of_mean(values), min(values), max(values)
    return (
        f"{100 * mean:.1f} ± {100 * error:.1f} % ({100 * low:.1f} to {100 * high:.1f} %, "
        f"{len(values)} seeds)"
    )


def ends_of(studies: Mapping[str, Sequence[Row]]) -> list[str]:
    """:func:`course` of each study."""
    return [course(name, trials) for name, trials in studies.items()]
