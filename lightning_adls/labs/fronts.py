"""The Pareto fronts of a run's searches: which trials are on them, and what these chose."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.columns import COSTS, accuracy
from lightning_adls.report import Row, write_text
from lightning_adls.search import Search
from lightning_adls.search.front import front_of

# Writes what a trial chose into a file.
Save = Callable[[FrozenTrial, Path], object]


def write_fronts(
    folder: Path,
    searches: Mapping[str, Search[Any]],
    cost: str,
    monitoring: Monitoring,
    save: Save | None = None,
) -> dict[str, list[Row]]:
    """Write what the trials on the fronts chose as ``<study>/front/<trial>.yaml``.

    Files of trials that were outdone since are removed.

    Args:
        folder: Of the run.
        searches: By the name of their study.
        cost: Of the front: ``bits_per_weight``, ``size_mb``, ``bit_operations`` or ``parameters``.
        monitoring: What trials are compared by, and reported on.
        save: Writes the choice of a trial; by default as YAML with the key ``choice``.

    Returns:
        By study, for ``summary.json``: the trials on its front, the cheapest first, with accuracy,
        costs and the file of their choice from the run's folder.
    """
    found: dict[str, list[Row]] = {}
    for study, search in searches.items():
        front, place = front_of(search.counted, cost, monitoring.mode), folder / study / "front"
        if front:
            place.mkdir(parents=True, exist_ok=True)
        for outdone in {*place.glob("*.yaml")} - {place / _file(trial) for trial in front}:
            outdone.unlink()
        found[study] = []
        for trial in front:
            (save or _save)(trial, place / _file(trial))
            found[study].append(
                {
                    "trial": trial.user_attrs["index"] + 1,
                    **accuracy("val", monitoring.accuracy(trial), monitoring.reporting_rows),
                    **{name: trial.user_attrs.get(name) for name in dict.fromkeys((*COSTS, cost))},
                    "choice": str(Path(study, "front", _file(trial))),
                }
            )
    return found


def _file(trial: FrozenTrial) -> str:
    """Trials count from 1 where they are shown."""
    return f"{trial.user_attrs['index'] + 1:03d}.yaml"


def _save(trial: FrozenTrial, path: Path) -> None:
    write_text(path, yaml.safe_dump({"choice": trial.user_attrs["choice"]}, sort_keys=False))
