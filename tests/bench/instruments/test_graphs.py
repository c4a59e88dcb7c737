"""Graphs, breaks and recompilations."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lightning_adls.bench import count_graphs


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def straight(x: Tensor) -> Tensor:
    return (x + 1).sin()


def broken_twice(x: Tensor) -> Tensor:
    x = x + 1
    torch._dynamo.graph_break()
    x = x * 2
    torch._dynamo.graph_break()
    return x.sin()


def calls_broken_ones(x: Tensor) -> Tensor:
    return broken_twice(broken_twice(x).cos()).cos()


def broken_at_the_end(x: Tensor) -> Tensor:
    x = x + 1
    torch._dynamo.graph_break()
    return x


@pytest.mark.parametrize(
    ("function", "lines"),
    [(straight, 0), (broken_twice, 2), (calls_broken_ones, 2), (broken_at_the_end, 1)],
)
def test_graphs_are_those_of_explain_and_breaks_are_lines(
    function: Callable[[Tensor], Tensor], lines: int
) -> None:
    explained = torch._dynamo.explain(function)(torch.ones(3))
    torch.compiler.reset()
    compiled = torch.compile(function, backend="eager")
    found = count_graphs(lambda: compiled(torch.ones(3)))
    assert found.graphs == explained.graph_count
    assert len(found.breaks) == lines
    assert count_graphs(lambda: compiled(torch.ones(3))).graphs == 0


def test_a_break_says_where_and_why() -> None:
    compiled = torch.compile(broken_at_the_end, backend="eager")
    (reason,) = count_graphs(lambda: compiled(torch.ones(3))).breaks
    line = broken_at_the_end.__code__.co_firstlineno + 2
    assert reason.startswith(f"test_graphs.py:{line} in broken_at_the_end: ")
    assert "graph_break" in reason


@pytest.mark.parametrize(
    ("dynamic", "graphs"), [(False, [1, 1, 1, 0]), (None, [1, 1, 0, 0]), (True, [1, 0, 0, 0])]
)
def test_new_sizes_recompile_unless_they_are_dynamic(
    dynamic: bool | None, graphs: list[int]
) -> None:
    compiled = torch.compile(straight, backend="eager", dynamic=dynamic)
    sizes = [3, 4, 5, 3]
    assert [count_graphs(lambda n=n: compiled(torch.ones(n))).graphs for n in sizes] == graphs  # type: ignore[misc]
