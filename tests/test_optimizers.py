"""The fused AdamW computes what the loop does, and goes where the loop goes."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.kernels import quantize
from lightning_adls.layers.packed_weight import PackedWeight
from lightning_adls.optimizers import adamw
from lightning_adls.transforms import LoRA, Quantize, Transform, parameter_groups

Build = Callable[[list[Transform]], TextClassifier]


def loop(params: Any, lr: float = 1e-2) -> AdamW:
    return AdamW(params, lr=lr, foreach=False)


def train(optimizer: AdamW, model: nn.Module, steps: int = 5, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 16, generator=generator).to(dtype)).square().sum().backward()
        optimizer.step()


def assert_equal_but_for_rounding(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        # Adam divides by the root of a square: tiny gradients lose digits in either order.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_fused_and_computes_what_the_loop_does(mlp: nn.Module, dtype: torch.dtype) -> None:
    mlp.to(dtype)
    other = deepcopy(mlp)
    optimizer = adamw(parameter_groups(mlp, 0.1), lr=1e-2)
    assert all(group["fused"] for group in optimizer.param_groups)
    train(optimizer, mlp)
    train(loop(parameter_groups(other, 0.1)), other)
    assert_equal_but_for_rounding(mlp, other)


def test_a_parameter_without_gradient_stays(mlp: nn.Sequential) -> None:
    before = [p.detach().clone() for p in mlp[0].parameters()]
    optimizer = adamw(mlp.parameters(), lr=1e-2)
    mlp[2](torch.randn(4, 32)).sum().backward()
    optimizer.step()
    assert all(map(torch.equal, before, mlp[0].parameters()))
    assert not optimizer.state.keys() & set(mlp[0].parameters())


def test_sparse_gradients_are_refused_as_by_the_loop() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    for optimizer in (adamw(table.parameters()), loop(table.parameters())):
        with pytest.raises(RuntimeError, match="sparse gradients"):
            optimizer.step()


@pytest.mark.parametrize("where", ["parameter", "gradient", "closure", "state"])
def test_another_order_in_memory_changes_nothing(where: str) -> None:
    weight, grad = torch.randn(4, 3), torch.randn(4, 3)
    transposed = {name: tensor.T.clone().T for name, tensor in (("w", weight), ("g", grad))}
    ours = nn.Parameter(transposed["w"] if where == "parameter" else weight.clone())
    theirs = nn.Parameter(weight.clone())
    optimizer, other = adamw([ours], lr=0.1), loop([theirs], lr=0.1)
    theirs.grad = grad
    for _ in range(3):
        if where == "closure":

            def closure() -> float:
                ours.grad = transposed["g"]
                return 1.0

            assert optimizer.step(closure) == 1.0
        else:
            ours.grad = transposed["g"] if where == "gradient" else grad
            optimizer.step()
        if where == "state":
            state = optimizer.state[ours]
            state["exp_avg"] = state["exp_avg"].T.clone().T
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_what_it_writes_counts_versions(mlp: nn.Sequential) -> None:
    optimizer = adamw(mlp.parameters())
    mlp(torch.randn(4, 16)).sum().backward()
    mlp[0].weight.grad = None
    before = [p._version for p in mlp.parameters()]
    optimizer.step()
    written = [p._version > v for p, v in zip(mlp.parameters(), before, strict=True)]
    assert written == [False] + [True] * (len(before) - 1)


@pytest.mark.parametrize("saved_by", [loop, adamw], ids=["loop", "fused"])
@pytest.mark.parametrize("loaded_by", [loop, adamw], ids=["loop", "fused"])
def test_state_dicts_pass_between_the_two(
    mlp: nn.Module, saved_by: Callable[..., AdamW], loaded_by: Callable[..., AdamW]
) -> None:
    other = deepcopy(mlp)
    optimizer = saved_by(mlp.parameters(), lr=1e-2)
    train(optimizer, mlp, 3)
    state = deepcopy(optimizer.state_dict())
    train(optimizer, mlp, 3, seed=1)

    train(saved_by(other.parameters(), lr=1e-2), other, 3)
    resumed = loaded_by(other.parameters(), lr=1e-2)
    resumed.load_state_dict(state)
    train(resumed, other, 3, seed=1)
    assert_equal_but_for_rounding(mlp, other)
    if loaded_by is adamw:
        assert all(group["fused"] for group in resumed.param_groups)
        assert state["param_groups"][0]["fused"] is (None if saved_by is loop else True)


def test_tensors_of_other_classes_are_left_to_torchs_choice() -> None:
    packed = nn.Parameter(PackedWeight(*quantize(torch.randn(4, 32)), torch.float32))
    for params in ([packed, nn.Parameter(torch.zeros(2))], [torch.zeros(2, device="meta")]):
        assert adamw(params).defaults["fused"] is None


def fit(module: TextClassifier, texts: TextData, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=settings.pop("enable_checkpointing", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, datamodule=texts)
    return trainer


class Norms(L.Callback):
    """The norm of the gradient when the optimiser steps."""

    def __init__(self) -> None:
        self.norms: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(
            lambda optimizer, *_: self.norms.append(norm_of(optimizer))
        )


def norm_of(optimizer: torch.optim.Optimizer) -> Tensor:
    grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)


# Lightning takes float16 on the CPU for bfloat16, unless it is given the plugin.
def float16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))


@pytest.mark.parametrize(
    "settings",
    [
        lambda: {"precision": "32-true"},
        lambda: {"precision": "bf16-mixed"},
        lambda: {"plugins": float16()},
    ],
    ids=["32-true", "bf16-mixed", "16-mixed"],
)
def test_gradients_are_clipped_in_each_precision(
    build: Build, texts: TextData, settings: Callable[[], dict[str, Any]]
) -> None:
    module, norms = build([Quantize({"*": "MXInt(width=4)"})]), Norms()
    trainer = fit(module, texts, gradient_clip_val=0.01, callbacks=[norms], **settings())
    assert trainer.optimizers[0].param_groups[0]["fused"]
    # Those that the optimiser steps with: clipped, and divided by the scale of float16.
    assert norms.norms == [pytest.approx(0.01, rel=1e-3)] * 3


@pytest.mark.parametrize("transforms", [[], [LoRA(rank=2)]], ids=["whole", "lora"])
def test_a_checkpoint_of_the_loop_resumes(
    build: Build,
    texts: TextData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transforms: list[Transform],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "lightning_adls.classifier.adamw", lambda groups, lr, weight_decay: loop(groups, lr)
        )
        torch.manual_seed(0)
        first = fit(build(transforms), texts)
    path = tmp_path / "before.ckpt"
    first.save_checkpoint(path)
    module = build(transforms)
    trainer = L.Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=texts, ckpt_path=path)
    optimizer = trainer.optimizers[0]
    assert all(group["fused"] for group in optimizer.param_groups)
    assert {float(state["step"]) for state in optimizer.state.values()} == {6.0}
