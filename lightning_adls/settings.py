"""What decides the results of a run or a study, compared with what it was begun with."""

import json
from typing import Any

from lightning_adls.errors import InputValueError


def refuse_changes(who: str, what: str, before: Any, now: Any) -> None:
    """Refuse to continue with other settings.

    Raises:
        ValueError: If they differ; the message says in what.
    """
    if before != now:
        changes = "; ".join(differences(before, now))
        raise InputValueError(
            f"{who}: {what} was made with other settings ({changes}); restore them, or give "
            "another --run."
        )


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """What differs between two nested settings, one entry each.

    Example:
        >>> differences({"seed": 0, "data": {"rows": 5}}, {"seed": 1, "data": {"rows": 5}})
        ['seed: 0 → 1']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in dict.fromkeys([*before, *now])
            for difference in differences(
                before.get(key), now.get(key), f"{at}.{key}" if at else str(key)
            )
        ]
    return [] if before == now else [f"{at}: {_short(before)} → {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
