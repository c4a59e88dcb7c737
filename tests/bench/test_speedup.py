"""Two networks against each other, on a clock that only they move on."""

import pytest
import torch
from torch import Tensor, nn

from lightning_adls import bench
from lightning_adls.bench import Rounds, speedup
from lightning_adls.bench.workloads.inputs import Inputs


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []


# Of all copies of a module.
CLOCK = Clock()


class Takes(nn.Module):
    """Takes some seconds per sample, on a machine that gets slower."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__()
        self.name = name
        self.seconds = seconds

    def forward(self, x: Tensor, more: int = 0) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        CLOCK.called.append(self.name)
        CLOCK.now += len(x) * (self.seconds + more) * (1 + 0.002 * CLOCK.now)
        return x


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    CLOCK.now = 0.0
    CLOCK.called.clear()
    monkeypatch.setattr("lightning_adls.bench.instruments.timing.perf_counter", lambda: CLOCK.now)
    return CLOCK


SLOW, FAST = Takes("slow", 3.0), Takes("fast", 2.0)


def test_a_speedup_is_the_median_of_quotients_within_rounds() -> None:
    found = speedup(SLOW, FAST, [torch.ones(1, 1)], rounds=Rounds(60))
    assert found.ratio.median == pytest.approx(1.5, rel=0.02)
    assert found.ratio.p10 < 1.5 < found.ratio.p90
    assert found.before_ms.p90 > 1.3 * found.before_ms.p10, "the machine has become slower"
    back = speedup(FAST, SLOW, [torch.ones(1, 1)], rounds=Rounds(60))
    assert back.ratio.median == pytest.approx(2 / 3, rel=0.02)


def test_equal_networks_are_equally_fast() -> None:
    ratio = speedup(SLOW, SLOW, [torch.ones(1, 1)], rounds=Rounds(60)).ratio
    assert ratio.p10 < 1 < ratio.p90


def test_both_are_called_with_all_batches_once_per_round_in_changing_order(clock: Clock) -> None:
    batches = [torch.ones(1, 1), torch.ones(2, 1), torch.ones(3, 1)]
    speedup(SLOW, FAST, batches, rounds=Rounds(timed=12, warmup=2))
    passes = [clock.called[n : n + 3] for n in range(0, len(clock.called), 3)]
    assert all(len(set(called)) == 1 for called in passes), "a pass is of one network"
    names = [called[0] for called in passes]
    rounds = list(zip(names[::2], names[1::2], strict=True))
    assert len(rounds) == 12 + 2
    assert set(rounds[2:]) == {("slow", "fast"), ("fast", "slow")}


def test_the_warm_up_does_not_count() -> None:
    class SlowAtFirst(Takes):
        def forward(self, x: Tensor, more: int = 0) -> Tensor:
            first_two = CLOCK.called.count(self.name) < 2
            return super().forward(x, 1000 if first_two else 0)

    found = speedup(SlowAtFirst("slow", 3.0), FAST, [torch.ones(1, 1)], rounds=Rounds(9, warmup=2))
    assert found.ratio.p90 < 2


def test_a_pass_is_timed_over_all_batches() -> None:
    batches: list[Inputs] = [
        torch.ones(1, 1),
        {"x": torch.ones(1, 1), "more": 2},
        (torch.ones(1, 1), 4),
    ]
    found = speedup(SLOW, FAST, batches, rounds=Rounds(timed=1, warmup=0))
    # (3 + 5 + 7) / (2 + 4 + 6), but for a machine that gets slower.
    assert found.ratio.median == pytest.approx(15 / 12, rel=0.1)


def test_the_networks_that_were_given_stay_as_they_were(mlp: nn.Sequential, x: Tensor) -> None:
    calls: list[bool] = []
    mlp.register_forward_hook(lambda *_: calls.append(True))
    speedup(mlp, mlp, [x], rounds=Rounds(timed=1, warmup=0))
    assert mlp.training
    assert len(calls) == 2, "hooks are copied, too"


def test_no_batches_and_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^speedup: batches=\[\] is empty"):
        bench.speedup(SLOW, FAST, [])
    with pytest.raises(ValueError, match=r"^speedup: device='tpu' is neither"):
        bench.speedup(SLOW, FAST, [torch.ones(1, 1)], device="tpu")
