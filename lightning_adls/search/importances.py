"""How much each choice of a search decided its values, from its rows alone."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

# Fewer trials than this say nothing: the best tenth of them is a single one.
FEWEST = 4


def importances(trials: Sequence[tuple[Mapping[str, str], float]]) -> dict[str, float]:
    """The share of each choice, by PED-ANOVA: largest first, together 1.

    Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces"; it needs no other package, which Optuna's fANOVA does.

    Args:
        trials: The choices of each trial, and its value, higher is better. A choice may be missing
            from some.

    Returns:
        Empty if there are fewer than four trials, or nothing differs between them.
    """
    values: dict[str, dict[str, None]] = {}
    for choices, _ in trials:
        for name, choice in choices.items():
            values.setdefault(name, {})[choice] = None
    varied = {name: list(found) for name, found in values.items() if len(found) > 1}
    if len(trials) < FEWEST or not varied or len({value for _, value in trials}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    for choices, value in trials:
        own = {name: choice for name, choice in choices.items() if name in varied}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=own,
                distributions={name: CategoricalDistribution(varied[name]) for name in own},
                value=value,
            )
        )
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
