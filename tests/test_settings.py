"""What changed between two settings is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.settings import differences, refuse_changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(before=JSON, now=JSON)
def test_differences_are_told_exactly_where_there_are_some(before: object, now: object) -> None:
    def nulls_out(value: object) -> object:  # a key that is missing and one that is null are alike
        if isinstance(value, dict):
            return {k: nulls_out(v) for k, v in value.items() if nulls_out(v) not in (None, {})}
        return value

    told = differences({"x": before}, {"x": now})
    if before == now:
        assert not told
    elif nulls_out({"x": before}) != nulls_out({"x": now}):
        assert told
    assert json.dumps(told)


def test_changed_settings_are_refused_by_name() -> None:
    refuse_changes("Run", "x", {"seed": 0}, {"seed": 0})
    with pytest.raises(ValueError, match=r"Run: x was made with other settings \(seed: 0 → 1"):
        refuse_changes("Run", "x", {"seed": 0}, {"seed": 1})
