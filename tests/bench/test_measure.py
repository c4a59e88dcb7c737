"""Whole measurements: every row, also those that cannot be measured."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adls.bench import Measurement, Rounds, Variant, measure, sweep, token_ids
from lightning_adls.models import bert
from lightning_adls.threads import wait_policy

Register = Callable[[Callable[..., Any]], str]
FEW = Rounds(timed=3, warmup=1)
EAGER, AOT = Variant(), Variant("aot_eager")


def runs_eagerly(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    return graph.forward


def wrong_by_a_tenth(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    return lambda *arguments: [1.1 * output for output in graph(*arguments)]


def does_not_compile(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    raise NotImplementedError("no such instruction\non this machine")


def test_rows_hold_consistent_numbers(mlp: nn.Sequential, x: Tensor) -> None:
    rows = measure(mlp, x, [EAGER, AOT, Variant(dtype="bfloat16")], rounds=FEW)
    assert [row["variant"] for row in rows] == [
        "eager float32",
        "compiled aot_eager float32",
        "eager bfloat16",
    ]
    for row in rows:
        assert list(row) == [field.name for field in fields(Measurement)]
        assert row["error"] is None
        assert (row["target"], row["device"], row["training"]) == ("Sequential", "cpu", False)
        assert (row["batch"], row["tokens"], row["tokens_per_s"]) == (4, None, None)
        assert row["threads"] == torch.get_num_threads()
        assert row["waiting"] == wait_policy()
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["samples_per_s"] == pytest.approx(4000 / row["median_ms"])
    eager, aot, bfloat16 = rows
    assert (eager["graphs"], eager["compile_ms"]) == (None, None)
    assert (aot["graphs"], aot["graph_breaks"], aot["recompilations"]) == (1, 0, 0)
    assert aot["compile_ms"] == pytest.approx(aot["first_call_ms"] - aot["median_ms"])
    assert eager["speedup_over_first"] == eager["speedup_over_eager"] == 1
    assert aot["speedup_over_first"] == aot["speedup_over_eager"]
    assert bfloat16["speedup_over_eager"] == 1
    assert eager["max_relative_error"] == 0
    assert 1e-4 < bfloat16["max_relative_error"] < 0.05


def test_speedups_and_break_even_on_a_clock_of_known_times(
    x: Tensor, backend: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lightning_adls.bench.instruments.timing.perf_counter", lambda: now[0])

    def takes_100_to_compile(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        def takes_2(*arguments: Any) -> Any:
            now[0] += 2
            return graph(*arguments)

        now[0] += 100
        return takes_2

    class Takes6(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                now[0] += 6
            return x + 1

    class Takes3(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                now[0] += 3
            return x + 1

    fast = Variant(backend(takes_100_to_compile))
    rows = measure({"6": Takes6(), "3": Takes3()}, x, [EAGER, fast], rounds=FEW)
    assert [row["median_ms"] for row in rows] == pytest.approx([6000, 2000, 3000, 2000])
    assert [row["speedup_over_first"] for row in rows] == pytest.approx([1, 3, 2, 3])
    assert [row["speedup_over_eager"] for row in rows] == pytest.approx([1, 3, 1, 1.5])
    assert rows[1]["compile_ms"] == rows[3]["compile_ms"] == pytest.approx(100_000)
    assert rows[1]["break_even_steps"] == pytest.approx(25)
    assert rows[3]["break_even_steps"] == pytest.approx(100)
    assert rows[0]["break_even_steps"] is None


def test_held_memory_is_that_of_weights_inputs_and_optimiser(mlp: nn.Module, x: Tensor) -> None:
    weights = sum(parameter.nbytes for parameter in mlp.parameters())
    (full,) = measure(mlp, x, [EAGER], rounds=FEW)
    (half,) = measure(mlp, x, [Variant(dtype="bfloat16")], rounds=FEW)
    (trained,) = measure(mlp, x, [EAGER], rounds=FEW, training=True)
    assert full["held_mb"] == pytest.approx((weights + x.nbytes) / 1e6)
    assert half["held_mb"] == pytest.approx(full["held_mb"] / 2)
    steps = 4 * len(list(mlp.parameters()))
    assert trained["held_mb"] == pytest.approx((3 * weights + x.nbytes + steps) / 1e6)
    (normed,) = measure(nn.BatchNorm1d(16, affine=False), x, [EAGER], rounds=FEW)
    assert normed["held_mb"] == pytest.approx((2 * 16 * 4 + 8 + x.nbytes) / 1e6)
    # Gradients come on top while training.
    assert trained["peak_mb"] >= trained["held_mb"] + weights / 1e6
    assert full["peak_mb"] > full["held_mb"]


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_backend_is_found(
    mlp: nn.Module, x: Tensor, backend: Register, training: bool
) -> None:
    names = [backend(runs_eagerly), backend(wrong_by_a_tenth)]
    rows = measure(mlp, x, [EAGER, *map(Variant, names)], rounds=FEW, training=training)
    assert [row["error"] for row in rows] == [None, None, None]
    assert [row["max_relative_error"] for row in rows[:2]] == [0, 0]
    # The mean square of outputs that are a tenth too large is 21 % too large.
    assert rows[2]["max_relative_error"] == pytest.approx(0.21 if training else 0.1, rel=1e-3)


def test_a_backend_that_is_wrong_in_the_gradients_only_is_found(
    mlp: nn.Module, x: Tensor, backend: Register
) -> None:
    def wrong_backward(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._dynamo.backends.common import aot_autograd

        compile_graph = aot_autograd(fw_compiler=runs_eagerly, bw_compiler=wrong_gradients)
        compiled: Callable[..., Any] = compile_graph(graph, inputs)
        return compiled

    def wrong_gradients(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda *arguments: [g if g is None else 1.5 * g for g in graph(*arguments)]

    (row,) = measure(mlp, x, [Variant(backend(wrong_backward))], rounds=FEW, training=True)
    assert row["error"] is None
    assert row["max_relative_error"] == pytest.approx(0.5)


def test_what_cannot_be_measured_says_why_and_leaves_the_others(
    mlp: nn.Module, x: Tensor, backend: Register
) -> None:
    variants = [
        EAGER,
        Variant("nothing"),
        Variant("inductor", mode="fast"),
        Variant(backend(does_not_compile)),
        AOT,
    ]
    rows = measure(mlp, x, variants, rounds=FEW)
    eager, unknown, mode, failing, aot = (row["error"] for row in rows)
    assert eager is aot is None
    assert unknown.startswith("Variant: backend='nothing' is unknown; torch has ")
    assert mode.startswith("Variant: mode='fast' is unknown; ")
    assert failing == "NotImplementedError: no such instruction"
    assert rows[3]["median_ms"] is rows[3]["speedup_over_first"] is None
    assert rows[4]["speedup_over_first"] > 0


def test_a_device_that_is_not_there_costs_its_rows(mlp: nn.Module, x: Tensor) -> None:
    rows = sweep(
        mlp,
        lambda batch, tokens: torch.ones(batch, tokens, 16),
        [EAGER],
        batch_sizes=[2],
        tokens=[3],
        devices=["cuda:99", "tpu", "cpu"],
        rounds=FEW,
    )
    missing, unknown, cpu = rows
    assert missing["error"].startswith("measure: device='cuda:99', but the number of CUDA devices")
    assert unknown["error"] == "measure: device='tpu' is neither 'cpu' nor 'cuda'."
    assert cpu["error"] is None
    assert cpu["tokens_per_s"] == pytest.approx(3 * cpu["samples_per_s"])


def test_running_out_of_memory_costs_the_row_of_that_size() -> None:
    def inputs(batch: int, tokens: int) -> Tensor:
        return torch.ones(batch, tokens)

    def small(x: Tensor) -> Tensor:
        # 10^15 bytes are more than any machine has.
        torch.empty(10 ** (15 * (len(x) - 1)), dtype=torch.uint8)
        return x

    fits, does_not = sweep(small, inputs, [EAGER], batch_sizes=[1, 2], tokens=[1], rounds=FEW)
    assert fits["error"] is None
    assert does_not["error"].startswith("out of memory: ")
    assert "\n" not in does_not["error"]


def test_a_failure_in_a_later_round_leaves_the_others(x: Tensor) -> None:
    class FailsLater(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError("worn out")
            return x

    worn, fine = measure({"worn": FailsLater(), "fine": nn.Identity()}, x, [EAGER], rounds=FEW)
    assert worn["error"] == "RuntimeError: worn out"
    assert worn["median_ms"] is None
    assert fine["error"] is None
    assert fine["speedup_over_first"] is None


class Counting(nn.Module):
    """Has a number that each call changes, which compiled code takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + (self.calls > 3)


class Breaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.broken(x) + 1

    def broken(self, x: Tensor) -> Tensor:
        x = x * 2
        torch._dynamo.graph_break()
        return x.sin()


def test_recompilations_are_told_from_first_graphs(x: Tensor) -> None:
    (row,) = measure(Counting(), x, [AOT], rounds=Rounds(timed=4, warmup=0))
    # The first call and the fourth, where the comparison turns out otherwise.
    assert row["graphs"] == 1
    assert row["recompilations"] >= 1
    (row,) = measure(nn.Identity(), x, [AOT], rounds=Rounds(timed=4, warmup=0))
    assert row["recompilations"] == 0


@pytest.mark.long
def test_no_variant_finds_what_another_compiled(x: Tensor) -> None:
    variants = [Variant("eager"), Variant("eager", dynamic=True), AOT]
    rows = measure({str(n): Breaking() for n in range(4)}, x, variants, rounds=FEW)
    assert [row["graphs"] for row in rows] == [3] * 12
    assert [row["graph_breaks"] for row in rows] == [1] * 12
    assert [row["recompilations"] for row in rows] == [0] * 12


def test_nor_what_was_compiled_before(x: Tensor) -> None:
    torch.compile(Breaking(), backend="eager")(x)
    (row,) = measure(Breaking(), x, [Variant("eager")], rounds=FEW)
    assert row["graphs"] == 3


@pytest.mark.parametrize("training", [False, True])
def test_the_model_that_was_given_stays_as_it_was(x: Tensor, training: bool) -> None:
    model = nn.Sequential(nn.Linear(16, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, x, [EAGER, Variant(dtype="bfloat16")], training=training, rounds=FEW)
    assert model.training
    assert isinstance(model[1], nn.Dropout)
    assert model[1].p == 0.5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_runs_all_of_a_step_on_weights_that_stay(x: Tensor) -> None:
    seen: list[tuple[bool, Tensor]] = []

    class Spied(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training and torch.is_grad_enabled(), self.weight.detach().clone()))
            return super().forward(x)

    (row,) = measure(Spied(16, 2), x, [EAGER], training=True, rounds=FEW)
    assert row["training"]
    assert all(trains for trains, _ in seen)
    assert all(torch.equal(weight, seen[0][1]) for _, weight in seen)


def test_dropout_does_not_blur_the_comparison(x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 4))
    rows = measure(model, x, [EAGER, AOT], training=True, rounds=FEW)
    assert max(row["max_relative_error"] for row in rows) < 1e-5


def test_naive_and_fused_attention_of_bert_take_turns() -> None:
    naive, fused = (
        bert(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            intermediate_size=16,
            max_position_embeddings=128,
            attention=attention,
        )
        for attention in ("eager", "sdpa")
    )
    rows = measure(
        {"naive": naive, "fused": fused}, token_ids(2, 128, vocab_size=50), [EAGER], rounds=FEW
    )
    assert [row["target"] for row in rows] == ["naive", "fused"]
    for row in rows:
        assert (row["batch"], row["tokens"], row["error"]) == (2, 128, None)
        assert row["tokens_per_s"] == pytest.approx(128 * row["samples_per_s"])
        assert row["max_relative_error"] == 0
    scores_mb = 2 * 2 * 128**2 * 4 / 1e6
    assert rows[0]["peak_mb"] - rows[0]["held_mb"] > 2 * scores_mb
    assert rows[1]["peak_mb"] - rows[1]["held_mb"] < 2 * scores_mb


@pytest.mark.long
def test_inductor_is_right_and_its_caches_are_cold_unless_asked_otherwise(
    x: Tensor, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def hits(cold: bool) -> int:
        counters = torch._dynamo.utils.counters["inductor"]
        before = counters["fxgraph_cache_hit"]
        (row,) = measure(nn.GELU(), x, [Variant("inductor")], rounds=FEW, cold=cold)
        assert row["error"] is None
        assert row["graphs"] == 1
        assert row["max_relative_error"] < 1e-5
        return int(counters["fxgraph_cache_hit"] - before)

    # Compiled into the folder, found there, and not looked for.
    assert [hits(cold=False), hits(cold=False), hits(cold=True)] == [0, 1, 0]


def test_the_lack_of_a_compiler_is_one_line(x: Tensor) -> None:
    import torch._inductor.config as inductor

    # Its own patch: pytest's deletes the setting when it restores it.
    with inductor.patch({"cpp.cxx": (None, "/nonexistent/g++")}):
        rows = measure(nn.GELU(), x, [EAGER, Variant("inductor", mode="default")], rounds=FEW)
    assert rows[0]["error"] is None
    assert "No working C++ compiler found" in rows[1]["error"]
    assert "\n" not in rows[1]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variants": []}, "give at least one target and one variant"),
        ({"variants": [EAGER, EAGER]}, "name eager float32 more than once"),
        ({"targets": {}}, "give at least one target and one variant"),
        ({"inputs": torch.tensor(1.0)}, "must begin with a tensor"),
        ({"inputs": {"tokens": 3}}, "must begin with a tensor"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(**{"targets": nn.Identity(), "inputs": torch.ones(1), **arguments})


def test_sizes_out_of_range_are_refused() -> None:
    def inputs(batch: int, tokens: int) -> Tensor:
        return torch.ones(batch, tokens)

    with pytest.raises(ValueError, match=r"batch_sizes=\[1, 0\] has a size below 1"):
        sweep(nn.Identity(), inputs, batch_sizes=[1, 0], tokens=[1])
    with pytest.raises(ValueError, match="give at least one device"):
        sweep(nn.Identity(), inputs, batch_sizes=[1], tokens=[])


def test_training_needs_something_to_train(x: Tensor) -> None:
    rows = measure({"none": nn.Identity(), "function": torch.sin}, x, [EAGER], training=True)
    assert rows[0]["error"] == "measure: training=True, but no parameter requires a gradient."
    assert rows[1]["error"].startswith("measure: training=True needs a module")


def test_a_result_that_is_not_a_number_is_infinitely_wrong(x: Tensor) -> None:
    def overflows(x: Tensor) -> Tensor:
        return (x.abs() + 1) * 60000 * 2

    exact, half = measure(overflows, x, [EAGER, Variant(dtype="float16")], rounds=FEW)
    assert exact["max_relative_error"] == 0
    assert half["max_relative_error"] == math.inf
