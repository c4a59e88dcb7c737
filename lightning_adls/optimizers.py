"""AdamW in one pass over all parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim import AdamW, Optimizer

# Where torch has a fused AdamW and is tested with it here.
FUSED_DEVICES = ("cpu", "cuda")


def adamw(
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
) -> AdamW:
    """AdamW, fused where torch has it: one pass over all parameters instead of a loop over them.

    It computes what torch's loop computes, but for the rounding of the last bits, and resumes from
    state dicts of either. ``torch.optim.AdamW(..., fused=True)`` does not all that: it counts no
    version of what it writes, so that a rounded weight that a layer keeps would not be renewed;
    it is wrong, without a word, where a parameter and its gradient lie in memory in different
    orders; and Lightning refuses to clip its gradients in mixed precision.

    Args:
        params: Parameters, or groups such as :func:`lightning_adls.parameter_groups` makes.
        lr: Learning rate, 0 or above.
        weight_decay: Of groups that do not say theirs, 0 or above.

    Returns:
        A fused one, if all parameters are plain, real and on the CPU or a CUDA device; else as
        torch chooses.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> adamw(nn.Linear(4, 2).parameters()).defaults["fused"]
        True
    """
    optimizer = AdamW(params, lr=lr, weight_decay=weight_decay)  # type: ignore[arg-type]
    if not all(_can_be_fused(parameter) for parameter in _parameters(optimizer)):
        return optimizer
    groups = [group | {"fused": True} for group in optimizer.param_groups]
    optimizer = AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    # The scaler of 16-mixed then divides gradients before the step, and they can be clipped.
    optimizer._step_supports_amp_scaling = False
    optimizer.register_step_pre_hook(_choose_after_closure)
    optimizer.register_step_post_hook(_count_versions)
    optimizer.register_load_state_dict_pre_hook(_stay_fused)
    return optimizer


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _can_be_fused(parameter: Tensor) -> bool:
    plain = type(parameter) in (nn.Parameter, Tensor)  # what else there is may not know the kernel
    return plain and parameter.is_floating_point() and parameter.device.type in FUSED_DEVICES


def _choose_after_closure(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Choose the kernel when the gradients are there, which a closure may compute."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        _choose(optimizer)
        return None

    def and_choose(closure: Callable[[], Any] = closure) -> Any:
        loss = closure()
        _choose(optimizer)
        return loss

    return args[:1], {"closure": and_choose}


def _choose(optimizer: Optimizer) -> None:
    # The kernel runs through the memory of all tensors of a parameter alike, in any order.
    for group in optimizer.param_groups:
        group["fused"] = all(
            tensor.is_contiguous()
            for parameter in group["params"]
            if parameter.grad is not None
            for tensor in (parameter, parameter.grad, *optimizer.state.get(parameter, {}).values())
        )


def _count_versions(optimizer: Optimizer, *_: object) -> None:
    increment_version([p for p in _parameters(optimizer) if p.grad is not None])


def _stay_fused(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    # Torch takes over whether the saved one was fused, and places the count of steps by that.
    groups = [group | {"fused": True} for group in state_dict["param_groups"]]
    return state_dict | {"param_groups": groups}
