"""Training any LightningModule to agree with a teacher."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_adls.callbacks.methods import wrap_method
from lightning_adls.callbacks.recording import Call, Note, is_hidden_in_graph, recorded
from lightning_adls.callbacks.teachers import Teacher, fingerprint, network_of, teacher_for
from lightning_adls.compiling.regions import repeated_blocks
from lightning_adls.distillation import check_temperature, hidden_state_loss, soft_label_loss
from lightning_adls.errors import InputValueError
from lightning_adls.transforms.walk import match

_WHO = "Distillation"


def logits_of(output: Any) -> Tensor:
    """The logits that a network returned: the tensor itself, or the ``logits`` of what it is in.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise InputValueError(
            f"{_WHO}: the network returned a {type(output).__name__} without logits; give "
            "logits_of, which takes them from it."
        )
    return output


def hidden_state_of(output: Any) -> Tensor:
    """The hidden state that a layer returned: the tensor itself, or the first one of several."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputValueError(
            f"{_WHO}: a layer returned a {type(output).__name__}, which is no hidden state; name "
            "other layers."
        )
    return output


class Distillation(L.Callback):
    """Train a LightningModule to give what a teacher gives.

    The loss of a training step becomes ``labels`` times the module's own, plus ``logits`` times
    :func:`lightning_adls.distillation.soft_label_loss` of the logits, plus ``hidden`` times the
    mean over layers of :func:`lightning_adls.distillation.hidden_state_loss`. It does so within the
    step, so that accumulation, mixed precision and DDP treat the sum as the loss. The student is
    not called again: what its network is called with and returns is seen when its ``training_step``
    calls it, and the teacher is called with the same, in eval mode and without gradients. Where a
    step calls it several times, the mean over the calls counts.

    The teacher is no part of the module, its optimizers and its state dict. By default it is the
    network as it was when the fit was set up, with nothing rounded: quantise by the recipe of the
    module or by callbacks in any order. This one is in the checkpoint, in the state of the
    callback, because the module has lost it; another teacher has to be given again to who resumes,
    and is compared by a hash of its weights.

    Logs what is added to the loss as ``train/distillation``.

    Args:
        teacher: A network, which is called as that of the student is; a LightningModule that has
            such a one; the path of a checkpoint for a network like the student's, see
            :func:`lightning_adls.load`; or None for the student as it was. It is copied.
        logits: Weight of the soft labels, 0 or above.
        labels: Weight of the module's own loss, 0 or above.
        hidden: Weight of the hidden states, 0 or above.
        temperature: Of the soft labels, above 0.
        layers: Which modules of the network give the hidden states: shell patterns of their names,
            which the teacher has too, or a mapping from names to those in the teacher. None stands
            for the layers that the network repeats, those of an encoder.
        network: Name of the part of the LightningModule that gives the logits; ``""`` is the module
            itself. None stands for its only child with parameters, or, if there are several, the
            module itself.
        precision: "bf16" converts the teacher and its floating-point inputs to bfloat16, which
            halves its memory; None computes as the student does.
        logits_of: Takes the logits from what the network returns; by default it is a tensor or has
            ``logits``.

    Raises:
        ValueError: If an argument is out of range; in ``fit``, if the module optimises by itself or
            is compiled as a whole, there is no such network, layer or file, the teacher's output
            has another shape, the network is not called or its output has no gradient, or
            ``ckpt_path`` is of a fit with another teacher or none.

    Example:
        >>> callback = Distillation(temperature=4.0, labels=0.5)
        >>> trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        teacher: Teacher | None = None,
        *,
        logits: float = 1.0,
        labels: float = 1.0,
        hidden: float = 0.0,
        temperature: float = 2.0,
        layers: Sequence[str] | Mapping[str, str] | None = None,
        network: str | None = None,
        precision: Literal["bf16"] | None = None,
        logits_of: Callable[[Any], Tensor] = logits_of,
    ) -> None:
        for name, weight in (("logits", logits), ("labels", labels), ("hidden", hidden)):
            if not 0 <= weight < float("inf"):
                raise InputValueError(f"{_WHO}: {name}={weight} is not a weight of 0 or above.")
        if logits == hidden == 0:
            raise InputValueError(f"{_WHO}: logits=0 and hidden=0 learn nothing; raise one.")
        check_temperature(temperature, _WHO)
        if precision not in ("bf16", None):
            raise InputValueError(f"{_WHO}: precision={precision!r} is not 'bf16' or None.")
        if isinstance(layers, str):
            raise InputValueError(f"{_WHO}: layers={layers!r} is not a list; give [{layers!r}].")
        self.teacher = teacher
        self.logits, self.labels, self.hidden = logits, labels, hidden
        self.temperature = temperature
        self.layers = layers
        self.network = network
        self.precision = precision
        self.logits_of = logits_of
        self._copy: nn.Module | None = None
        self._fingerprint: str | None = None
        # From the names of hidden layers to those in the teacher.
        self._pairs: dict[str, str] = {}
        self._fitting = self._restored = False
        # Takes the wrapped training step away again.
        self._undo: Callable[[], None] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the teacher, before anything is trained."""
        self._fitting = stage == TrainerFn.FITTING
        if not self._fitting:
            return
        if not pl_module.automatic_optimization:
            raise InputValueError(
                f"{_WHO}: {type(pl_module).__name__} optimises by itself "
                "(automatic_optimization=False); add lightning_adls.distillation.soft_label_loss "
                "to its loss there."
            )
        if pl_module._compiler_ctx is not None:
            raise InputValueError(
                f"{_WHO}: {type(pl_module).__name__} is compiled with its training step; compile "
                "its network alone."
            )
        self._restored = False
        network = network_of(pl_module, self.network, _WHO)
        self._copy = teacher_for(network, self.teacher, self.network, _WHO)
        self._fingerprint = None if self.teacher is None else fingerprint(self._copy)
        if self.precision == "bf16":
            self._copy.to(torch.bfloat16)
        self._pairs = self._hidden_layers(network) if self.hidden else {}

    def _hidden_layers(self, network: nn.Module) -> dict[str, str]:
        plain: nn.Module = getattr(network, "_orig_mod", network)
        names = {id(part): name for name, part in plain.named_modules() if name}
        if self.layers is None:
            pairs = {names[id(block)]: names[id(block)] for block in repeated_blocks(plain)}
            if not pairs:
                raise InputValueError(
                    f"{_WHO}: layers=None finds no nn.ModuleList of layers of one class in "
                    f"{type(plain).__name__}; name the layers."
                )
        elif isinstance(self.layers, Mapping):
            pairs = match(names.values(), self.layers, _WHO, "modules")
        else:
            found = match(names.values(), dict.fromkeys(self.layers, True), _WHO, "modules")
            pairs = {name: name for name in found}
        assert self._copy is not None
        theirs = dict(self._copy.named_modules())
        if missing := [name for name in pairs.values() if name not in theirs]:
            raise InputValueError(
                f"{_WHO}: the teacher has no {missing[0]!r}; give layers as a mapping from the "
                "student's names to the teacher's."
            )
        return pairs

    def state_dict(self) -> dict[str, Any]:
        """The weights of the student as it was, or the hash of another teacher."""
        if self._copy is None:
            return {}
        if self.teacher is None:
            return {"weights": self._copy.state_dict()}
        return {"fingerprint": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the teacher of the fit that is resumed, or see that it is the same."""
        if self._copy is None or not self._fitting:
            return
        weights = state_dict.get("weights")
        if (weights is None) != (self.teacher is not None):
            raise InputValueError(
                f"{_WHO}: teacher={'None' if self.teacher is None else 'a model'} is not that of "
                f"the fit to resume, which was {'a model' if weights is None else 'None'}; give "
                "the same."
            )
        if weights is not None:
            self._copy.load_state_dict(weights)
        elif state_dict["fingerprint"] != self._fingerprint:
            raise InputValueError(
                f"{_WHO}: teacher has other weights than that of the fit to resume; give the same."
            )
        self._restored = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to add to the loss.

        Raises:
            ValueError: If the fit resumes from one that had no teacher, or a hidden layer lies
                within a compiled one.
        """
        assert self._copy is not None
        if trainer.ckpt_path is not None and not self._restored:
            raise InputValueError(
                f"{_WHO}: ckpt_path={str(trainer.ckpt_path)!r} is of a fit without it; load its "
                "weights into the module and fit without ckpt_path."
            )
        self._copy.to(pl_module.device)
        if self.teacher is None and trainer.world_size > 1:
            # Each process may have drawn weights of its own, which DDP has made the same since.
            for tensor in (*self._copy.parameters(), *self._copy.buffers()):
                if tensor.is_floating_point():
                    torch.distributed.broadcast(tensor, 0)

        def training_step(step: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            added: list[Tensor] = []
            with recorded(self._notes(pl_module, added)):
                output = step(*arguments, **named)
            return output if output is None else self._with_teacher(pl_module, output, added)

        self._undo = wrap_method(pl_module, "training_step", training_step)

    def _notes(self, module: L.LightningModule, added: list[Tensor]) -> dict[nn.Module, Note]:
        """What is noted of the student; each call of its network adds a loss."""
        network = network_of(module, self.network, _WHO)
        plain: nn.Module = getattr(network, "_orig_mod", network)
        hidden = [name for name in self._pairs if is_hidden_in_graph(network, name)]
        if self.network and is_hidden_in_graph(module, self.network):
            hidden = [self.network]
        if hidden:
            raise InputValueError(
                f"{_WHO}: {hidden[0]!r} lies within a compiled module, where nothing is seen of "
                "it; compile the layers (compile='layers'), or name none of them."
            )
        states: dict[str, list[Tensor]] = defaultdict(list)
        notes = {plain.get_submodule(name): _noting(states[name]) for name in self._pairs}

        def note(call: Call) -> None:
            if torch.is_grad_enabled():
                taught, theirs = self._ask(module.device.type, call)
                loss = self._loss(call.output, taught, states, theirs)
                added.append(loss if module.trainer.world_size == 1 else loss * _share(call, loss))
            for seen in states.values():
                seen.clear()

        return {**notes, network: note}

    def _ask(self, device: str, call: Call) -> tuple[Any, dict[str, list[Tensor]]]:
        """What the teacher returns, and its hidden states by the names of its layers."""
        assert self._copy is not None
        states: dict[str, list[Tensor]] = defaultdict(list)
        layers = set(self._pairs.values())
        notes = {self._copy.get_submodule(name): _noting(states[name]) for name in layers}
        arguments, named, _ = call
        precision: AbstractContextManager[object] = nullcontext()
        if self.precision == "bf16":
            arguments, named = tree_map_only(Tensor, _halved, (arguments, named))
            # Bfloat16 throughout: autocast would compute in the Trainer's precision.
            precision = torch.autocast(device, enabled=False)
        with torch.no_grad(), precision, recorded(notes):
            return self._copy(*arguments, **named), states

    def _loss(
        self,
        output: Any,
        taught: Any,
        ours: Mapping[str, Sequence[Tensor]],
        theirs: Mapping[str, Sequence[Tensor]],
    ) -> Tensor:
        parts = []
        if self.logits:
            student, teacher = self.logits_of(output), self.logits_of(taught)
            parts.append(self.logits * soft_label_loss(student, teacher, self.temperature))
        if self.hidden:
            layers: list[Tensor] = []
            for name, other in self._pairs.items():
                if not ours[name] or len(ours[name]) != len(theirs[other]):
                    raise InputValueError(
                        f"{_WHO}: layer {name!r} is called {len(ours[name])} times in the student "
                        f"and {other!r} {len(theirs[other])} times in the teacher; name other "
                        "layers."
                    )
                layers += map(hidden_state_loss, ours[name], theirs[other])
            parts.append(self.hidden * torch.stack(layers).mean())
        return torch.stack(parts).sum()

    def _with_teacher(self, module: L.LightningModule, output: Any, added: list[Tensor]) -> Any:
        if not added:
            raise InputValueError(
                f"{_WHO}: the training_step of {type(module).__name__} does not call "
                f"{self.network or 'its network'!r} with gradients; give the name of the part "
                "that gives logits as network."
            )
        term = torch.stack(added).mean()
        if not term.requires_grad:
            raise InputValueError(
                f"{_WHO}: no gradient reaches {type(module).__name__} through what its network "
                "returns; train some of its parameters, and use no reentrant checkpointing."
            )
        module.log("train/distillation", term.detach())
        if isinstance(output, Mapping):
            return {**output, "loss": self.labels * output["loss"] + term}
        return self.labels * output + term

    def _unwrap(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the module as it was."""
        self._unwrap()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as it was, of a fit that gets to no end."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the device; a checkpoint that is saved later has the teacher nevertheless."""
        self._unwrap()
        if self._copy is not None:
            self._copy.cpu()


def _noting(states: list[Tensor]) -> Note:
    def note(call: Call) -> None:
        states.append(hidden_state_of(call.output))

    return note


def _share(call: Call, loss: Tensor) -> Tensor:
    """What makes the mean over processes that of all their rows, where some have fewer."""
    inputs = [leaf for leaf in tree_leaves(call[:2]) if isinstance(leaf, Tensor)]
    rows = loss.new_tensor(float(len(inputs[0])))
    total = rows.clone()
    torch.distributed.all_reduce(total)
    return rows * torch.distributed.get_world_size() / total


def _halved(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor
