"""What ``torch.compile`` made of a function: graphs and the breaks between them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Graphs:
    """What was compiled.

    Attributes:
        graphs: Number of graphs compiled. 0 where something was to be compiled means that torch
            gave up and runs it eagerly.
        breaks: The lines of code at which a graph had to end before its function did, each with the
            reason that torch gives.
    """

    graphs: int = 0
    breaks: tuple[str, ...] = ()


def graphs_compiled() -> int:
    """Graphs that this process has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@contextmanager
def watched() -> Iterator[Graphs]:
    """Count what is compiled within the context; the counts are filled in at its end."""
    found = Graphs()
    graphs, breaks = graphs_compiled(), len(torch._dynamo.utils.graph_break_reasons)
    yield found
    found.graphs = graphs_compiled() - graphs
    reasons = torch._dynamo.utils.graph_break_reasons[breaks:]
    # torch notes a break again for each function on the way to it, and each time that it is met.
    found.breaks = tuple(dict.fromkeys(_text(r) for r in reasons if r.graph_break))


def _text(reason: "torch._dynamo.output_graph.GraphCompileReason") -> str:
    line = reason.user_stack[-1]
    text = reason.reason.partition("\n")[0]
    return f"{Path(line.filename).name}:{line.lineno} in {line.name}: {text}"


def count_graphs(call: Callable[[], object]) -> Graphs:
    """What is compiled during a call.

    A second call that compiles again has recompiled, say for another size.

    Example:
        >>> double = torch.compile(lambda x: 2 * x, backend="eager", dynamic=False)
        >>> [count_graphs(lambda: double(torch.ones(n))).graphs for n in (3, 3, 4)]
        [1, 0, 1]
    """
    with watched() as found:
        call()
    return found
