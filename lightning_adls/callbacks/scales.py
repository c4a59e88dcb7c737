"""Looking whether the optimizers of a fit suit learned scales."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_adls.transforms.parameter_groups import learned_scales


def warn_of_groups(callback: L.Callback, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Warn of scales that no optimizer trains, and of those that weight decay pulls to zero.

    Nothing is known of optimizers that hold other tensors than the module's parameters, as those
    of some sharded strategies do.

    Args:
        callback: Whose name begins the sentence.
        trainer: Its optimizers exist.
        module: Has the scales.
    """
    decay_of = {
        id(parameter): float(group.get("weight_decay") or 0.0)
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    if not any(id(parameter) in decay_of for parameter in module.parameters()):
        return
    scales = {name: id(s) for name, s in learned_scales(module).items() if s.requires_grad}
    missing = [name for name, scale in scales.items() if scale not in decay_of]
    decayed = [name for name, scale in scales.items() if decay_of.get(scale, 0.0) > 0]
    who = type(callback).__name__
    if missing:
        rank_zero_warn(
            f"{who}: no group of the optimizer has {_some(missing)}, so that nothing trains them; "
            "make the groups by lightning_adls.parameter_groups(self, weight_decay)."
        )
    if decayed:
        rank_zero_warn(
            f"{who}: weight_decay={decay_of[scales[decayed[0]]]} pulls {_some(decayed)} to zero; "
            "make the optimizer's groups by lightning_adls.parameter_groups(self, weight_decay), "
            "which spares them."
        )


def _some(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return f"the learned scale {names[0]}{others}"
