"""What compiling costs: the first calls, and calls of other sizes."""

import pytest
import torch
from torch import nn

from lightning_adls.bench import Variant, first_calls, over_sizes

NET = nn.Sequential(nn.Linear(4, 4), nn.GELU())
SIZES = [torch.ones(rows, 4) for rows in (2, 3, 5)]


def test_the_first_call_of_a_compiled_model_dominates_the_mean_of_few() -> None:
    row = first_calls(NET, SIZES[0], Variant("aot_eager"), calls=3)
    assert row["first_call_ms"] / 3 <= row["mean_ms"] < row["first_call_ms"]


@pytest.mark.parametrize(("dynamic", "graphs"), [(False, 3), (None, 2), (True, 1)])
def test_graphs_are_counted_over_all_sizes(dynamic: bool | None, graphs: int) -> None:
    row = over_sizes(NET, SIZES, Variant("eager", dynamic=dynamic))
    assert (row["graphs"], row["graph_breaks"]) == (graphs, 0)
    assert row["later_pass_ms"] < row["first_pass_ms"]


def test_graph_breaks_are_counted() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x + 1

    assert over_sizes(Broken(), SIZES[:1], Variant("eager"))["graph_breaks"] == 1


def test_more_sizes_than_torch_compiles_for_are_an_error_and_not_an_eager_run() -> None:
    limit = torch._dynamo.config.recompile_limit
    sizes = [torch.ones(rows, 4) for rows in range(2, limit + 3)]
    assert over_sizes(NET, sizes[:-1], Variant("eager", dynamic=False))["graphs"] == limit
    with pytest.raises(RuntimeError, match=f"for {limit} sizes at most"):
        over_sizes(NET, sizes, Variant("eager", dynamic=False))


def test_an_unknown_backend_and_device_are_refused() -> None:
    with pytest.raises(ValueError, match="backend='nonsense' is unknown"):
        first_calls(NET, SIZES[0], Variant("nonsense"), calls=2)
    with pytest.raises(ValueError, match="device='tpu'"):
        over_sizes(NET, SIZES, Variant("eager"), device="tpu")
