"""What all callbacks heed that swap layers of a module before it is trained."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from lightning_adls.callbacks.averages import refuse_averaged_masks
from lightning_adls.callbacks.launched import refuse_lost_layers, repeat_refusal
from lightning_adls.callbacks.order import refuse_earlier_copies
from lightning_adls.callbacks.torch_pruning import refuse_torch_pruning
from lightning_adls.errors import InputValueError, NoMatchError
from lightning_adls.layers import KINDS, QuantizedLayer
from lightning_adls.transforms.parameter_groups import learned_scales
from lightning_adls.transforms.walk import layers_of


class LayerSwapping(L.Callback):
    """Swaps layers in ``setup``, or refuses where the module that is trained would not have them.

    That is so where an average of the module was made before, where a launched process hands back
    weights alone, where layers are made later than ``setup``, and where a checkpoint's optimizers
    do not know the parameters of the new layers.
    """

    # What to do where processes are launched.
    _instead: ClassVar[str] = "call the callback's prepare(module) before"
    # The plain layers that were there when layers were swapped, until it was looked for others.
    _left_plain: Sequence[nn.Module] | None = None
    # Of the checkpoint that a fit resumes from.
    _resumed: Mapping[str, Any] | None = None

    def prepare(self, module: nn.Module) -> None:
        """Swap the layers of ``module`` in place, as ``setup`` does."""
        raise NotImplementedError

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        """Whether layers are swapped, by patterns of which the last wins, and their kinds."""
        raise NotImplementedError

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Swap layers.

        Raises:
            ValueError: If that would be lost, there are no such layers, one has no weights yet, or
                torch's pruning masks them as well.
        """
        self._resumed = None
        self._refuse_lazy_layers(pl_module)
        try:
            changed = self._swap(pl_module)
        except NoMatchError as error:
            if _makes_layers_late(pl_module):
                raise NoMatchError(
                    f"{str(error).removesuffix('.')}; layers that the module makes in its setup or "
                    "configure_model come after the callback's setup: make them in __init__, or "
                    "call module.configure_model() before."
                ) from error
            raise
        refuse_torch_pruning(self, trainer, pl_module)
        if changed:
            refuse_earlier_copies(self, trainer)
            refuse_lost_layers(type(self).__name__, trainer, self._instead)
        self._left_plain = list(self._plain_layers(pl_module).values())

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what the checkpoint's optimizers train."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed = checkpoint

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether the module and its optimizers are what was set up.

        Raises:
            ValueError: If layers were added, a callback averages masks by a rule that they do not
                follow, or the optimizers have other parameters than those of the checkpoint.
        """
        # All callbacks have been set up: averages are there.
        refuse_averaged_masks(self, trainer, pl_module)
        self._refuse_late_layers(pl_module)
        checkpoint, self._resumed = self._resumed, None
        if checkpoint is not None:
            self._refuse_new_parameters(trainer, pl_module, checkpoint)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether layers were added, if this is no fit."""
        self._refuse_late_layers(pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether layers were added."""
        self._refuse_late_layers(pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether layers were added."""
        self._refuse_late_layers(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say in one sentence what a launched process refused."""
        super().on_exception(trainer, pl_module, exception)
        repeat_refusal(exception)

    def _swap(self, module: nn.Module) -> bool:
        """Swap layers, or give them masks; whether there were any to swap."""
        before = _layout(module)
        self.prepare(module)
        return _layout(module) != before

    def _plain_layers(self, module: nn.Module) -> dict[str, nn.Module]:
        layers = layers_of(module, self._choices()[1])
        return {n: each for n, each in layers.items() if not isinstance(each, QuantizedLayer)}

    def _is_chosen(self, name: str) -> bool:
        matched = [yes for key, yes in self._choices()[0].items() if fnmatchcase(name, key)]
        return bool(matched) and matched[-1]

    def _refuse_lazy_layers(self, module: nn.Module) -> None:
        types = [make() for kind, make in KINDS.items() if kind in self._choices()[1]]
        plain = [each for found in types if found is not None for each in found.plain_types]
        for name, layer in module.named_modules():
            if (
                isinstance(layer, LazyModuleMixin)
                and layer.cls_to_become in plain
                and self._is_chosen(name)
            ):
                raise InputValueError(
                    f"{type(self).__name__}: layer {name!r} is a {type(layer).__name__} that has "
                    "no weights yet; call the module on a batch first."
                )

    def _refuse_late_layers(self, module: nn.Module) -> None:
        if self._left_plain is None:
            return
        known = {id(layer) for layer in self._left_plain}
        self._left_plain = None
        for name, layer in self._plain_layers(module).items():
            # By the object: what wraps a module, such as torch.compile, gives it other names.
            if id(layer) not in known and self._is_chosen(name):
                who = type(self).__name__
                raise InputValueError(
                    f"{who}: layer {name!r} was made after the callback's setup, by the module's "
                    "setup or configure_model, and is left as it is; make it in __init__, or leave "
                    f"it out of the layers of {who}."
                )

    def _refuse_new_parameters(
        self, trainer: L.Trainer, module: nn.Module, checkpoint: Mapping[str, Any]
    ) -> None:
        weights = checkpoint.get("state_dict", {})
        added = [name for name in learned_scales(module) if name not in weights]
        theirs = [_count(state) for state in checkpoint.get("optimizer_states", [])]
        ours = [_count(optimizer.state_dict()) for optimizer in trainer.optimizers]
        if added and theirs != ours:
            raise InputValueError(
                f"{type(self).__name__}: ckpt_path={str(trainer.ckpt_path)!r} has optimizers that "
                f"know no {added[0]!r}, which is learned now; load the weights into the module and "
                "fit without ckpt_path."
            )


def _layout(module: nn.Module) -> tuple[list[int], list[str]]:
    return [id(part) for part in module.modules()], [name for name, _ in module.named_buffers()]


def _makes_layers_late(module: L.LightningModule) -> bool:
    return any(is_overridden(name, module) for name in ("setup", "configure_model"))


def _count(optimizer: Mapping[str, Any]) -> int:
    return sum(len(group["params"]) for group in optimizer.get("param_groups", []))
