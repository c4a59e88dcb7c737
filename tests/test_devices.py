"""Two devices train what one trains on the same batches of a step."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import devices as script
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_adls.callbacks import Calibration, Cubic, Pruning
from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.formats import parse

pytestmark = pytest.mark.long

SCRIPT = Path(script.__file__)
HERE = {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}


def process(how: str, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, how, folder],
        env=os.environ | HERE | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def end(running: subprocess.Popen[bytes]) -> None:
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    """What one device finds."""
    return script.found(folder, 1)


@pytest.fixture(scope="module")
def ranks(folder: Path, alone: Any) -> list[Any]:
    """What each of two processes finds that were started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
    }
    for running in [
        process("share", folder, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]:
        end(running)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def started(folder: Path, alone: Any) -> Any:
    """What a process finds that starts another one for each training."""
    end(process("start", folder))
    return torch.load(folder / "started.pt", weights_only=False)


def check_equal(one: Any, two: Any) -> None:
    assert one["steps"] == two["steps"] == 4
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert {"val/accuracy", "val/divergence", "half/loss"} <= one["metrics"].keys()
    assert two["answers"] == one["answers"]
    assert len(one["answers"]) == 17
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", script.CASES)
def test_two_processes_train_what_one_trains(ranks: list[Any], alone: Any, case: str) -> None:
    check_equal(alone[case], ranks[0][case])


@pytest.mark.parametrize("case", script.CASES)
def test_all_processes_have_the_same_weights_masks_and_scales(ranks: list[Any], case: str) -> None:
    first, second = (rank[case]["state"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ranges_are_those_of_the_data_of_all_processes(ranks: list[Any], alone: Any) -> None:
    assert ranks[0]["recipe"] == ranks[1]["recipe"] == alone["recipe"]


def test_quantised_layers_train_in_shards(ranks: list[Any], alone: Any) -> None:
    one, two = alone["sharded"], ranks[0]["sharded"]
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, rtol=0, atol=1e-6, msg=name)
    assert one["refused"] is None
    assert "are sharded and were not fitted before" in two["refused"]


def test_a_search_trains_each_of_its_trials_on_two_devices(
    started: Any, folder: Path, alone: Any
) -> None:
    one, two = script.searched(folder, 1), started["searched"]
    for found in (one, two):
        assert [trial["state"] for trial in found["trials"]] == ["COMPLETE", "PRUNED"]
    for single, double in zip(one["trials"], two["trials"], strict=True):
        assert double["values"] == pytest.approx(single["values"], abs=1e-6)
    # What was trained is in the process that started the other one.
    for name, value in one["best"].items():
        torch.testing.assert_close(two["best"][name], value, rtol=0, atol=1e-6, msg=name)


def test_what_another_process_fails_with_is_said_here_and_nothing_is_left(started: Any) -> None:
    error, left = started["failed"]
    assert started["threads"] == 1
    assert error == "RuntimeError: process 2: ZeroDivisionError: of the second process"
    assert left == "[]"


def test_what_cannot_be_sent_is_refused_in_one_sentence(started: Any) -> None:
    error, left = started["not sent"]
    assert error.startswith("InputValueError: devices=2: a part of the training cannot be sent")
    assert "\n" not in error
    assert left == "[]"


@pytest.mark.parametrize(
    "callback",
    [lambda: Pruning(Cubic(0.5)), lambda: Calibration({"*": "Integer(width=8)"})],
)
@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_what_looks_at_whole_weights_is_refused_where_they_are_sharded(
    callback: Callable[[], Any], strategy: Callable[[], Any]
) -> None:
    trainer: Any = SimpleNamespace(strategy=strategy())
    with pytest.raises(InputValueError, match=f"{strategy.__name__} gives each device a part"):
        callback().setup(trainer, script.Settled(), "fit")


@pytest.mark.parametrize(
    ("strategy", "clipped"), [(FSDPStrategy(), ["sharded"]), (DDPStrategy(), ["whole"])]
)
def test_gradients_of_shards_are_clipped_by_their_common_norm(
    strategy: Any, clipped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    strategy._model = SimpleNamespace(clip_grad_norm_=lambda value: calls.append("sharded"))
    module = TextClassifier(torch.nn.Linear(2, 2))
    monkeypatch.setattr(module, "clip_gradients", lambda *_: calls.append("whole"))
    monkeypatch.setattr(
        TextClassifier, "trainer", property(lambda _: SimpleNamespace(strategy=strategy))
    )
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters(), 0.1), 1.0, None)
    assert calls == clipped


# Each of a class of scales: none, of a block, of a sample, of the whole tensor.
@pytest.mark.parametrize(
    ("text", "alike"),
    [
        *((text, True) for text in ("Integer(width=4)", "MinifloatIEEE(width=8)", "Log(width=8)")),
        *((text, True) for text in ("MXInt(width=4)", "MXInt(width=4, block_size=(-1, 16))")),
        ("BlockFP(width=6, block_size=(-1, -1))", True),
        *((text, True) for text in ("Binary()", "Binary(scale='per_channel')", "ResidualSign()")),
        *((text, False) for text in ("Ternary()", "Binary(scale='per_tensor')")),
        ("ResidualSign(scale='per_tensor')", False),
    ],
)
def test_formats_but_those_with_a_scale_of_the_whole_tensor_round_half_a_batch_alike(
    text: str, alike: bool
) -> None:
    x = torch.randn(8, 5, 64, generator=torch.Generator().manual_seed(0))
    x[::2] *= 9
    fmt = parse(text)
    halves = torch.empty_like(x)
    halves[::2], halves[1::2] = fmt(x[::2]), fmt(x[1::2])
    assert torch.equal(fmt(x), halves) is alike
