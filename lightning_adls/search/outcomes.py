"""What a trial came to, taken over from one that tried the same."""

from optuna.trial import FrozenTrial, TrialState

from lightning_adls.search.judged import Outcome
from lightning_adls.transforms.cost import COSTS

OVER_LIMIT, EXCESS = "over_limit", "excess"
# What the last validation logged, by name, and the last one before compression.
METRICS, METRICS_BEFORE = "metrics", "metrics_before_compression"
_TAKEN_OVER = (
    *("choice", *COSTS, "bit_operations", OVER_LIMIT, EXCESS),
    *("before_compression", METRICS_BEFORE, METRICS),
)


def repeated(index: int, twin: FrozenTrial) -> Outcome:
    """What a trial at this place comes to that tries what its twin tried."""
    names = [*_TAKEN_OVER]
    if index < twin.user_attrs["index"]:
        # Of equals the first is the best, and has the weights.
        names.append("checkpoint")
    taken = {name: twin.user_attrs[name] for name in names if name in twin.user_attrs}
    attributes = {**taken, "same_as": twin.user_attrs["index"], "seconds": 0.0}
    # Optuna gives a pruned trial its last report as its value.
    values = tuple(twin.values) if twin.state == TrialState.COMPLETE else None
    return Outcome(twin.state, values, attributes)
