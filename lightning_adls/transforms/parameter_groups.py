"""Groups of parameters for an optimizer: what decays, and what must not."""

from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer


def learned_scales(module: nn.Module) -> dict[str, nn.Parameter]:
    """The scales that quantised layers learn, by the names that parameters have in ``module``."""
    return {
        f"{name}.{own}".removeprefix("."): scales
        for name, layer in module.named_modules()
        if isinstance(layer, QuantizedLayer)
        for own, scales in layer.named_scales()
    }


def parameter_groups(
    module: nn.Module, weight_decay: float, scales_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer in which only matrices decay.

    Weight decay pulls a learned scale to zero, and the range of what is rounded with it. Call this
    in ``configure_optimizers``: callbacks have quantised the module by then.

    Args:
        module: Those of its parameters that require gradients are in one group each.
        weight_decay: Of parameters with two or more dimensions, 0 or above. Biases, norms and
            learned scales have none.
        scales_lr: Learning rate of the learned scales, above 0; None for the optimizer's.

    Returns:
        A group that decays and one that does not, each in the order of ``module.parameters()``;
        with ``scales_lr`` the scales are in a third one.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> from lightning_adls import Quantize
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> _ = Quantize({"*": {"weight": "LearnedInteger(width=4)"}})(model)
        >>> groups = parameter_groups(model, weight_decay=0.01)
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.01), (2, 0.0)]
    """
    if not weight_decay >= 0:
        raise InputValueError(f"parameter_groups: weight_decay={weight_decay} is below 0.")
    if scales_lr is not None and not scales_lr > 0:
        raise InputValueError(f"parameter_groups: scales_lr={scales_lr} is not above 0.")
    scales = {id(parameter) for parameter in learned_scales(module).values()}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    apart: list[nn.Parameter] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in scales:
            (spared if scales_lr is None else apart).append(parameter)
        else:
            (decayed if parameter.dim() >= 2 else spared).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if scales_lr is not None:
        groups.append({"params": apart, "weight_decay": 0.0, "lr": scales_lr})
    return groups
