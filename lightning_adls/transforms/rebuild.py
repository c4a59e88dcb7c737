"""Make a model again from a state dict alone, whose records say what its layers were."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import escape
from typing import Any, cast

import torch
from torch import nn

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.formats import MXInt
from lightning_adls.layers import (
    KINDS,
    ROLES,
    LayerFormats,
    LayerRecord,
    QuantizedLayer,
    builder,
    has_recipe,
    is_kind,
)
from lightning_adls.layers.adapter import NAME, AdapterRecord, adapter_records_of
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.transforms.bake import Baked
from lightning_adls.transforms.fitting import check_network
from lightning_adls.transforms.lora import LoRA
from lightning_adls.transforms.quantize import records_of
from lightning_adls.transforms.walk import linear_layers, replace_layers

_SCALES = {f"{role}_scales" for role in ROLES}
_LEARNED = _SCALES | {f"{role}_fitted" for role in ROLES}


def rebuild(
    model: nn.Module, state: Mapping[str, Any], strict: bool = True, keep: bool = False
) -> None:
    """Change ``model`` into the one that a state dict was saved from, so that it can be loaded.

    Layers become quantised, each by its record and with its backend, masked or packed. Adapters
    are inserted as they were; what is trained besides them is in no state dict, and all of it is
    frozen. A layer that is as it shall be stays the same object and keeps what it learned. Where a
    state dict has no record at all it is of a plain model, or older than records: what rounds in
    ``model`` goes on to do so. Load the state dict afterwards.

    Args:
        model: Of the same network, plain or changed; changed in place.
        state: With the names that ``model`` has.
        strict: Whether the state dict has to be of the whole network.
        keep: Whether layers that round stay as they are, for ``load_state_dict`` to compare them;
            if not, they, too, become what they were when the state was saved.

    Raises:
        ValueError: If the state dict is of another network (a pruned or dropped one, for example:
            do that to ``model`` before) or says too little. The model is unchanged then.
        ImportError: If a backend or adapters need a package that is not installed; likewise.

    Example:
        >>> from lightning_adls.transforms import Quantize
        >>> model, fresh = nn.Sequential(nn.Linear(32, 2)), nn.Sequential(nn.Linear(32, 2))
        >>> Quantize({"*": "MXInt(width=4)"})(model)
        >>> rebuild(fresh, model.state_dict())
        >>> fresh.load_state_dict(model.state_dict())
        <All keys matched successfully>
    """
    check_network(model, state, "rebuild", strict)
    saved = _saved_layers(state)
    adapters = _missing_adapters(model, state)
    if adapters:
        lora = _lora(adapters)
        lora.check(model)
        # An error in what becomes of layers, also of those to come, must not leave these behind.
        _replacements({**_modules(model), **_adapted(model, adapters)}, saved, keep)
        with torch.random.fork_rng(devices=()):  # what is drawn is not what is loaded
            lora(model)
    made = _replacements(_modules(model), saved, keep)
    if "" in made:
        raise InputValueError(
            f"rebuild: model={type(model).__name__} is itself a layer, which cannot be replaced in "
            "place; give the module that holds it."
        )
    replace_layers(model, made, lambda name, _: made[name])
    if not keep:
        _forget_what_was_not_saved(model, saved)


@dataclass
class _Saved:
    """What a state dict has of one layer."""

    entries: dict[str, Any] = field(default_factory=dict)
    record: LayerRecord | None = None

    @property
    def packed(self) -> bool:
        return {"codes", "exponents"} <= self.entries.keys()

    @property
    def ours(self) -> bool:
        """Whether it is of a layer of this package and of no other."""
        return self.record is not None or self.packed or self.masked

    @property
    def masked(self) -> bool:
        # Torch's pruning has masks, too.
        return "weight_mask" in self.entries and "weight_orig" not in self.entries

    @property
    def changed(self) -> bool:
        """Whether it is no plain layer's, given that it is of one of the ``KINDS``."""
        return self.ours or bool(self.entries.keys() & {"enabled", "input_sparsity", *_SCALES})

    @property
    def formats(self) -> LayerFormats:
        if self.record is None:  # those of packed layers have not always had one
            return LayerFormats(weight=MXInt(width=8) if self.packed else None)
        return self.record.formats

    @property
    def backend(self) -> str:
        return "standard" if self.record is None else self.record.backend

    def __str__(self) -> str:
        if self.record is not None:
            return f"a quantised {self.record.kind} ({self.record})"
        return "a packed layer" if self.packed else "a mask"


def _saved_layers(state: Mapping[str, Any]) -> dict[str, _Saved]:
    layers: dict[str, _Saved] = defaultdict(_Saved)
    for key, value in state.items():
        name, _, entry = key.rpartition(".")
        layers[name].entries[entry] = value
    for name, record in records_of(state).items():
        layers[name].record = record
    return dict(layers)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def _replacements(
    modules: Mapping[str, nn.Module], saved: Mapping[str, _Saved], keep: bool
) -> dict[str, nn.Module]:
    """What takes the place of the layers that are not as they were saved, by their first names."""
    recorded, baked = any(layer.record for layer in saved.values()), Baked()
    made: dict[int, tuple[str, nn.Module]] = {}
    for name, its in saved.items():
        layer = modules.get(name)
        if layer is None or _kind_of(layer) is None:
            # What has an entry of this name itself is somebody else's.
            if its.ours and (layer is None or not its.entries.keys() & layer._buffers.keys()):
                raise _not_made(name, its, layer)
            continue
        rounds = has_recipe(layer)
        if rounds and (keep or (its.record is None and not recorded and not its.packed)):
            continue
        if (rounds or its.changed) and id(layer) not in made:
            new = _made(name, layer, its, baked)
            first = next(other for other, module in modules.items() if module is layer)
            made[id(layer)] = first, new
    return {name: new for name, new in made.values() if new is not modules[name]}


def _kind_of(layer: nn.Module) -> str | None:
    if isinstance(layer, QuantizedLayer):
        return layer.kind
    return next((kind for kind in KINDS if is_kind(layer, kind)), None)


def _made(name: str, layer: nn.Module, saved: _Saved, baked: Baked) -> nn.Module:
    """The layer that was saved, on the parameters of ``layer``; itself if it is that."""
    kind, formats = cast(str, _kind_of(layer)), saved.formats
    learned = None if saved.record is None else saved.record.learned
    if saved.record is not None and saved.record.kind != kind:
        raise _not_made(name, saved, layer)
    if saved.record is None and not saved.packed and saved.entries.keys() & _SCALES:
        raise InputValueError(
            f"rebuild: the state dict has learned scales of {name!r} and, older than records, no "
            "recipe; quantise the model by the recipe that it was saved with before."
        )
    if isinstance(layer, QuantizedLayer):
        wanted = (
            LayerRecord.of(kind, saved.backend, formats)
            if learned is None
            else LayerRecord.of_switched(kind, saved.backend, learned)
        )
        if layer.record == wanted and isinstance(layer, PackedLinear) == saved.packed:
            return layer
    plain = baked.plain(layer) if isinstance(layer, PackedLinear) else layer
    build = PackedLinear.from_layer if saved.packed else builder(saved.backend)
    try:
        new = build(plain, formats)
        if learned is not None:
            new.learn_by_format(learned)
    except MissingPackageError:
        raise
    except InputValueError as error:
        raise InputValueError(
            f"rebuild: layer {name!r} cannot be made again as {saved}. {error}"
        ) from error
    for name in saved.entries.keys() & _LEARNED:  # of a model that was converted, they were, too
        if (tensor := getattr(new, name)) is not None:
            tensor.data = tensor.data.to(saved.entries[name].dtype)
    return new


def _not_made(name: str, saved: _Saved, layer: nn.Module | None) -> InputValueError:
    has = "nothing of that name" if layer is None else f"a {type(layer).__name__} there"
    return InputValueError(
        f"rebuild: the state dict has {saved} as {name!r} and the model has {has}; build the "
        "network that was saved."
    )


def _forget_what_was_not_saved(model: nn.Module, saved: Mapping[str, _Saved]) -> None:
    """Take off masks and switches that the saved model had not."""
    if not any(layer.ours for layer in saved.values()):
        return  # of a plain model, or too old to say
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer) and name in saved:
            entries = saved[name].entries
            if "weight_mask" not in entries:
                layer.weight_mask = None
            if "input_sparsity" not in entries and layer.input_sparsity:
                layer.input_sparsity = 0.0
            if "enabled" not in entries:
                layer.enabled = True


def _missing_adapters(model: nn.Module, state: Mapping[str, Any]) -> dict[str, AdapterRecord]:
    """The adapters of the state dict that ``model`` does not have yet, by their layers' names."""
    bases = {key.rpartition(".base_layer.")[0] for key in state if ".base_layer." in key}
    adapted = {
        name.removesuffix(".base_layer") for name in _modules(model) if name.endswith(".base_layer")
    }
    records, linear = adapter_records_of(state), linear_layers(model)
    for name in sorted(adapted - bases):
        if any(key.startswith(f"{name}.") for key in state):
            raise InputValueError(
                f"rebuild: the model has an adapter on {name!r} and the state dict has none; call "
                "merge_lora(model) before."
            )
    for name in sorted(bases - adapted):
        if name not in records:
            raise InputValueError(
                f"rebuild: the state dict has an adapter on {name!r} and does not say its alpha; "
                "insert the adapters by the same LoRA before."
            )
        if name not in linear:
            raise InputValueError(
                f"rebuild: the state dict has an adapter on {name!r}, which is no linear layer of "
                "the model; build the network that was saved."
            )
    return {name: records[name] for name in sorted(bases - adapted)}


def _lora(adapters: Mapping[str, AdapterRecord]) -> LoRA:
    records = sorted(set(adapters.values()), key=str)
    if len(records) > 1:
        raise InputValueError(
            f"rebuild: the state dict has adapters of {records[0]} and of {records[1]}; insert "
            "each LoRA into its part of the model before."
        )
    (record,) = records
    return LoRA(
        tuple(map(escape, adapters)), record.rank, record.alpha, record.dropout, trainable=()
    )


def _adapted(model: nn.Module, adapters: Mapping[str, AdapterRecord]) -> dict[str, nn.Module]:
    """The layers that adapters bring along, by name, before they are there."""
    layers, linear = {}, linear_layers(model)
    for name, record in adapters.items():
        base = linear[name]
        layers[f"{name}.base_layer"] = cast(nn.Module, base)
        for part, sizes in (
            ("lora_A", (base.in_features, record.rank)),
            ("lora_B", (record.rank, base.out_features)),
        ):
            layers[f"{name}.{part}.{NAME}"] = nn.Linear(*sizes, bias=False, device="meta")
    return layers
