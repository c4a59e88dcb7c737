"""Load what was exported: the quantised model, its weights decoded or kept in their codes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.export.container import Container, opened
from lightning_adls.export.contents import Contents, WeightText
from lightning_adls.kernels.bits import packed_bytes, unpack_few
from lightning_adls.kernels.coded import Coded, check_parts
from lightning_adls.kernels.own_values import is_rounded
from lightning_adls.layers import RECORD_KEY, QuantizedLayer, weight_of
from lightning_adls.layers.coded_weight import CodedWeight
from lightning_adls.layers.record import ADAPTER_KEY
from lightning_adls.layers.stored_weight import StoredWeight
from lightning_adls.models.description import build_network
from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.fitting import renamed
from lightning_adls.transforms.rebuild import rebuild


def describe(path: str | Path) -> dict[str, Any]:
    """What a file says of itself, without its weights.

    Returns:
        ``weights``, ``layers``, ``tied``, ``network``, ``labels``, ``tokenizer``, ``versions`` and
        ``facts``; see docs/export.md.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, or :func:`save` did not write it.
    """
    with opened(path) as container:
        return asdict(_contents(container))


def load(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    packed: bool = False,
    keep_bytes: int = 0,
) -> nn.Module:
    """Load a model that computes in eval mode what the saved one computed, bit for bit.

    That is so without gradients: torch multiplies in another order with a weight that can have one.

    Args:
        path: Of the file that :func:`save` wrote.
        model: The network that was saved, plain or changed, or a function that makes it; changed in
            place. What was dropped or structurally pruned has to be so there, too. None makes it
            from the file's text, which can be done for networks of Transformers, by themselves or
            in a :class:`TextClassifier`.
        packed: Whether weights stay in their codes, for inference: they are decoded each time that
            a layer is called, and nothing can be written into them. Otherwise they are parameters
            of rounded values, which the layers go on to round. Those that would round them to
            others (a scale is taken from the values, or a mask hides the largest) keep codes and
            decoded values.
        keep_bytes: How many bytes of decoded weights may be kept, with ``packed``; the first layers
            that fit keep theirs.

    Returns:
        The model, in eval mode, in the data types of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, is of another network, says too little to make one, or
            ``keep_bytes`` is below 0 or given without ``packed``.
        ImportError: If a backend or adapters need a package that is not installed.
    """
    if keep_bytes < 0 or (keep_bytes and not packed):
        raise InputValueError(
            f"export: keep_bytes={keep_bytes} is no memory to keep; give 0 or more, with "
            "packed=True."
        )
    with opened(path) as container:
        contents = _contents(container)
        made = _made(model, container, contents)
        _Loading(made, container, contents, packed, keep_bytes).load()
    return made.eval()


def _contents(container: Container) -> Contents:
    try:
        contents = Contents.from_metadata(container.metadata)
    except InputValueError as error:
        container.refuse(str(error), error)
    expected = _shapes(contents)
    names = container.entries.keys()
    for name, (dtype, shape) in expected.items():
        entry = container.entries.get(name)
        if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
            container.refuse(f"lacks {name!r}, {dtype} of shape {shape}")
    clash = contents.tied.keys() & (names | contents.weights.keys())
    lost = set(contents.tied.values()) - (names | contents.weights.keys())
    if clash or lost or contents.weights.keys() & names:
        container.refuse("has names that stand for two tensors or for none")
    return contents


def _shapes(contents: Contents) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of all parts of weights that have parts."""
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, weight in contents.weights.items():
        elements = torch.Size(weight.shape).numel()
        if weight.format is not None:
            parts = weight.coded_shapes().parts()
        else:
            assert weight.kept is not None
            parts = {
                "values": (weight.values_dtype, (weight.kept,)),
                "mask": (torch.uint8, (packed_bytes(elements, 1),)),
            }
        shapes |= {f"{name}.{part}": shape for part, shape in parts.items()}
    return shapes


def _made(
    model: nn.Module | Callable[[], nn.Module] | None, container: Container, contents: Contents
) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if model is not None:
        made = model()
        if not isinstance(made, nn.Module):
            raise InputValueError(f"export: model={model!r} made a {type(made).__name__}.")
        return made
    sizes = [torch.Size(weight.shape).numel() for weight in contents.weights.values()]
    sizes += [torch.Size(entry.shape).numel() for entry in container.entries.values()]
    description = contents.network
    classifier = description.get("class") == "lightning_adls.TextClassifier"
    network = description.get("network") if classifier else description
    if not isinstance(network, Mapping):
        container.refuse("does not say which network it is of")
    built = build_network(network, len(sizes) + len(contents.tied), sum(sizes))
    _drop(built, network.get("identities", []), container)
    if not classifier:
        return built
    try:
        return TextClassifier(built, **description["arguments"])
    except (TypeError, KeyError, ValueError) as error:
        container.refuse(f"describes a TextClassifier that cannot be made: {error}", error)


def _drop(network: nn.Module, names: Any, container: Container) -> None:
    """Drop the layers in whose place the saved network has the identity."""
    modules = dict(network.named_modules())
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        container.refuse("describes a network whose identities are no list of names")
    if lost := [name for name in names if name not in modules]:
        container.refuse(f"drops the layer {lost[0]!r}, which the network has not")
    dropped = [escape(name) for name in names if not isinstance(modules[name], nn.Identity)]
    if dropped:
        try:
            Drop(dropped)(network)
        except InputValueError as error:
            container.refuse(f"drops what is no layer to drop: {error}", error)


class _Loading:
    """One call of :func:`load`."""

    def __init__(
        self,
        model: nn.Module,
        container: Container,
        contents: Contents,
        packed: bool,
        keep_bytes: int,
    ) -> None:
        self._model, self._container, self._contents = model, container, contents
        self._packed, self._left = packed, keep_bytes
        self._source: dict[str, str] = {}

    @torch.no_grad()
    def load(self) -> None:
        """Make the model what was saved, and read its tensors one after the other."""
        state = self._named_like_the_model()
        rebuild(self._model, state)
        own = self._model.state_dict(keep_vars=True).keys()
        if missing := [key for key in own if key not in state]:
            self._container.refuse(f"lacks {missing[0]!r}, which the model has")
        self._convert(state)
        self._load_plain(state)
        loaded: dict[str, nn.Parameter] = {}
        for key, source in self._source.items():
            name = self._contents.tied.get(source, source)
            if (weight := self._contents.weights.get(name)) is not None:
                self._load_weight(key, name, weight, loaded)

    def _named_like_the_model(self) -> dict[str, Tensor]:
        """A state dict without values but for records; notes by what name the file has each."""
        contents, meta = self._contents, torch.device("meta")
        parts = _shapes(contents)
        state: dict[str, Tensor] = {}
        for name, entry in self._container.entries.items():
            if name.rpartition(".")[2] == ADAPTER_KEY:
                state[name] = self._container.read(name)
            elif name not in parts:
                state[name] = torch.empty(entry.shape, dtype=entry.dtype, device=meta)
        for name, weight in contents.weights.items():
            state[name] = torch.empty(weight.shape, dtype=weight.values_dtype, device=meta)
        for name, other in contents.tied.items():
            state[name] = torch.empty_like(state[other])
        for name, record in contents.layers.items():
            state[f"{name}.{RECORD_KEY}" if name else RECORD_KEY] = record.to_tensor()
        for name in (*contents.weights, *contents.tied):
            stored = contents.weights.get(contents.tied.get(name, name))
            if stored is None or stored.mask == "none":
                continue
            if stored.format is None or not self._packed:  # with codes the mask is theirs
                layer = name.rpartition(".")[0]
                mask = torch.empty(stored.shape, dtype=torch.bool, device=meta)
                state[f"{layer}.weight_mask" if layer else "weight_mask"] = mask
        names = {id(tensor): name for name, tensor in state.items()}
        state = renamed(self._model, state, "export")
        self._source = {key: names[id(tensor)] for key, tensor in state.items()}
        return state

    def _convert(self, state: Mapping[str, Tensor]) -> None:
        """Give parameters and buffers the data types of the file."""
        for key, tensor in state.items():
            module, leaf = self._place(key)
            parameter, buffer = module._parameters.get(leaf), module._buffers.get(leaf)
            stored: Any = parameter
            if isinstance(module, QuantizedLayer) and isinstance(stored, StoredWeight):
                values = torch.empty_like(tensor, device=weight_of(module).device)
                module.keep_codes(nn.Parameter(values, requires_grad=False))  # to write into
            elif parameter is not None and parameter.dtype != tensor.dtype:
                parameter.data = torch.empty_like(parameter.data, dtype=tensor.dtype)
            elif buffer is not None and buffer.dtype != tensor.dtype:
                module._buffers[leaf] = buffer.to(tensor.dtype)

    def _place(self, key: str) -> tuple[nn.Module, str]:
        module, _, leaf = key.rpartition(".")
        return self._model.get_submodule(module), leaf

    def _load_plain(self, state: Mapping[str, Tensor]) -> None:
        """Load what is stored as it is, module by module."""
        local: dict[str, dict[str, str]] = {}
        for key, source in self._source.items():
            name = self._contents.tied.get(source, source)
            if name in self._container.entries or source.endswith(RECORD_KEY):
                module, _, leaf = key.rpartition(".")
                local.setdefault(module, {})[leaf] = name
        for module, entries in local.items():
            values = {}
            for leaf, name in entries.items():
                known = state[f"{module}.{leaf}" if module else leaf]
                values[leaf] = self._container.read(name) if known.is_meta else known
            try:
                self._model.get_submodule(module).load_state_dict(values, strict=False)
            except RuntimeError as error:
                self._container.refuse(f"does not fit {module!r} of the model", error)

    def _load_weight(
        self, key: str, name: str, weight: WeightText, loaded: dict[str, nn.Parameter]
    ) -> None:
        module, leaf = self._place(key)
        if not isinstance(module, QuantizedLayer) or module.weight_name != leaf:
            self._container.refuse(f"has codes of {key!r}, which is no weight of a quantised layer")
        if weight.format is None:
            self._load_masked(module, name, weight)
            return
        coded = self._coded(module, key, name, weight)
        parameter = module._parameters[leaf]
        assert parameter is not None
        if name not in loaded:
            if not self._packed and self._rounds_alike(module, coded, weight):
                return
            size = torch.Size(weight.shape).numel() * weight.values_dtype.itemsize
            keeps = not self._packed or size <= self._left
            self._left -= size if self._packed and keeps else 0
            moved = {part: tensor.to(parameter.device) for part, tensor in coded.parts().items()}
            kept = CodedWeight(
                coded.with_parts(moved, weight.values_dtype), module.row_order(), keeps
            )
            loaded[name] = nn.Parameter(kept, requires_grad=False)
        module.weight_mask = None
        module.keep_codes(loaded[name])

    def _coded(self, layer: QuantizedLayer, key: str, name: str, weight: WeightText) -> Coded:
        shapes = weight.coded_shapes()
        rows = layer.to_rows(torch.empty(weight.shape, device="meta")).shape
        if layer.formats.weight != shapes.format or rows != shapes.shape:
            self._container.refuse(
                f"has codes of {key!r} in {weight.format} of {weight.rows}, which is not what the "
                "layer multiplies with"
            )
        parts = {part: self._container.read(f"{name}.{part}") for part in shapes.parts()}
        try:
            check_parts(shapes, parts)
        except InputValueError as error:
            self._container.refuse(f"has codes of {key!r} that do not fit: {error}", error)
        return Coded(shapes, **parts)

    def _rounds_alike(self, layer: QuantizedLayer, coded: Coded, weight: WeightText) -> bool:
        """Whether the layer rounds decoded values to themselves, which are in its weight then."""
        parameter: Any = layer._parameters[layer.weight_name]
        rows = coded.decode()
        parameter.copy_(layer.from_rows(rows))
        if coded.mask is not None:
            shape = coded.shapes.shape
            mask = unpack_few(coded.mask, 1, math.prod(shape)).bool().view(shape)
            layer.weight_mask = layer.from_rows(mask).to(parameter.device)
        elif weight.mask == "zeros":
            layer.weight_mask = parameter != 0
        fitted = layer.fitted_of("weight")
        layer.eval()
        if fitted is not None and not fitted > 0:
            return False
        if is_rounded(coded, rows, layer.scales_of("weight")):
            return True
        alike = torch.equal(layer.rounded_weight(), parameter)
        layer.eval()  # which forgets what was rounded
        return alike

    def _load_masked(self, layer: QuantizedLayer, name: str, weight: WeightText) -> None:
        """A weight of which those elements are stored that its mask keeps."""
        parameter: Any = layer._parameters[layer.weight_name]
        elements = torch.Size(weight.shape).numel()
        bits = unpack_few(self._container.read(f"{name}.mask"), 1, elements).bool()
        if int(bits.count_nonzero()) != weight.kept:
            self._container.refuse(f"has a mask of {name!r} that keeps another number of elements")
        mask = bits.view(weight.shape)
        values = torch.zeros(weight.shape, dtype=weight.values_dtype)
        values[mask] = self._container.read(f"{name}.values")
        parameter.copy_(values)
        layer.weight_mask = mask.to(parameter.device)
