"""Times: what is timed, in which order, and what is made of it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.bench import Rounds, Spread, alternate, break_even, time_ms

milliseconds = st.floats(1e-3, 1e6)


@given(milliseconds, milliseconds, milliseconds)
def test_total_times_meet_at_the_break_even(compiling: float, eager: float, faster: float) -> None:
    steps = break_even(compiling, eager, faster)
    if faster >= eager:
        assert steps is None
    else:
        assert steps is not None
        assert steps >= 0
        assert steps * eager == pytest.approx(compiling + steps * faster)


def test_nothing_saved_never_breaks_even() -> None:
    assert break_even(10.0, 5.0, 5.0) is None
    assert break_even(0.0, 5.0, 6.0) is None
    assert break_even(0.0, 5.0, 4.0) == 0


class Clock:
    """A clock that only calls move on; the machine gets slower with time."""

    def __init__(self, slower_per_s: float) -> None:
        self.now = 0.0
        self.slower_per_s = slower_per_s
        self.called: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.called.append(name)
            self.now += seconds * (1 + self.slower_per_s * self.now)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(slower_per_s=0.002)
    monkeypatch.setattr("lightning_adls.bench.instruments.timing.perf_counter", lambda: clock.now)
    return clock


def test_each_call_is_made_once_per_round_in_changing_order(clock: Clock) -> None:
    names = ["a", "b", "c"]
    times = alternate({name: clock.call(name, 1.0) for name in names}, Rounds(12, warmup=2))
    rounds = [clock.called[n : n + 3] for n in range(0, len(clock.called), 3)]
    assert len(rounds) == 12 + 2
    assert all(sorted(names) == sorted(order) for order in rounds)
    assert len({tuple(order) for order in rounds[2:]}) > 3
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys(names, 12)


def test_the_order_repeats_with_the_seed(clock: Clock) -> None:
    def order(seed: int) -> list[str]:
        clock.called.clear()
        alternate({name: clock.call(name, 1.0) for name in "abc"}, Rounds(9, 0, seed))
        return list(clock.called)

    assert order(0) == order(0) != order(1)


def test_a_drift_of_the_machine_does_not_change_the_ratio(clock: Clock) -> None:
    times = alternate(
        {"slow": clock.call("slow", 3.0), "fast": clock.call("fast", 1.0)}, Rounds(60)
    )
    assert times["slow"][-1] > 1.4 * times["slow"][0]
    assert Spread.of(times["slow"] / times["fast"]).median == pytest.approx(3.0, rel=0.01)


def test_one_after_the_other_the_same_drift_would(clock: Clock) -> None:
    slow = time_ms(clock.call("slow", 3.0), Rounds(60))
    fast = time_ms(clock.call("fast", 1.0), Rounds(60))
    assert Spread.of(slow).median / Spread.of(fast).median != pytest.approx(3.0, rel=0.1)


def test_times_are_in_milliseconds_and_leave_the_warm_up_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(slower_per_s=0.0)
    monkeypatch.setattr("lightning_adls.bench.instruments.timing.perf_counter", lambda: clock.now)
    work = clock.call("", 0.25)

    def compiling_first() -> None:
        clock.now += 100.0 * (not clock.called)
        work()

    times = time_ms(compiling_first, Rounds(timed=5, warmup=1))
    assert torch.equal(times, torch.full((5,), 250.0, dtype=torch.float64))


@given(st.lists(milliseconds, min_size=1, max_size=40))
def test_a_spread_is_ordered_and_within_the_values(values: list[float]) -> None:
    spread = Spread.of(torch.tensor(values, dtype=torch.float64))
    low, high = min(values) * (1 - 1e-12), max(values) * (1 + 1e-12)
    assert low <= spread.p10 <= spread.median <= spread.p90 <= high


def test_rounds_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="timed=0 is below 1"):
        Rounds(timed=0)
    with pytest.raises(ValueError, match="warmup=-1 is below 0"):
        Rounds(warmup=-1)
