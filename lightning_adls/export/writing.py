"""Save a model in one file, its weights in as many bits as their formats say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.export.container import NAMES, Put, write
from lightning_adls.export.contents import Contents, WeightText
from lightning_adls.export.facts import check_facts, described, labels_of, tokenizer_of, versions
from lightning_adls.formats import NumberFormat
from lightning_adls.kernels.bits import pack_bits, packed_bytes
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.encoding import encode, encoded, kept_by
from lightning_adls.layers import RECORD_KEY, LayerRecord, QuantizedLayer
from lightning_adls.layers.coded_weight import CodedWeight
from lightning_adls.layers.int8_linear import LoweredLinear
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.layers.stored_weight import StoredWeight
from lightning_adls.transforms.quantize import records_of

_AT_ONCE = 1 << 18  # elements of a weight that is not rounded; eight of its mask fill a byte


def save(
    model: nn.Module,
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    tokenizer: str | None = None,
    **facts: Any,
) -> None:
    """Write a model into one file that :func:`load` reads and other programs can.

    A safetensors file. Weights that a layer rounds are there in the codes of their format, as many
    bits an element as the format says, with shared exponents and scales beside them; weights with
    a mask without the zeros, where that is smaller. Everything else is there in its data type. The
    header says in text what the layers, the network, the classes and the tokenizer are.

    A weight is stored in full where something multiplies with it unrounded, or rounded to another
    format or by other scales, and where another backend than the standard one rounds it.

    Args:
        model: A network or a :class:`TextClassifier`, on any device; not changed.
        path: Of the file, by custom ``.safetensors``. An older file stays until the new one is
            whole.
        labels: Names of the classes, in order; by default those of the network's configuration.
        tokenizer: Name on the hub or folder, which is loaded for a hash of its content.
        facts: What else the file shall tell, such as ``accuracy=0.91``: numbers, texts and lists
            of them.

    Raises:
        FileNotFoundError: If the tokenizer is not there.
        ValueError: If a layer is switched between formats or lowered, a weight holds a NaN, a fact
            is none that JSON can hold, a state is no tensor or of a data type that safetensors
            files cannot hold, or the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Quantize
        >>> from lightning_adls.export import load
        >>> model, x = nn.Sequential(nn.Linear(64, 64)).eval(), torch.ones(1, 64)
        >>> Quantize({"*": "MXInt(width=4)"})(model)
        >>> with TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/model.safetensors", accuracy=0.9)
        ...     loaded = load(f"{folder}/model.safetensors", nn.Sequential(nn.Linear(64, 64)))
        >>> torch.equal(loaded(x), model(x))
        True
    """
    model = getattr(model, "_orig_mod", model)  # what was compiled
    check_facts(facts)
    for name, module in model.named_modules():
        if isinstance(module, LoweredLinear):
            raise InputValueError(
                f"export: layer {name!r} is lowered to int8 products; save the model that was "
                "lowered, and lower what is loaded."
            )
        if isinstance(module, QuantizedLayer) and module.scales_by_format is not None:
            raise InputValueError(
                f"export: layer {name!r} is switched between formats, and a file holds one of "
                "them; give what lightning_adls.supernet.extract makes."
            )
    state = model.state_dict(keep_vars=True)
    parts = _Parts(model, state)
    contents = Contents(
        {name: weight.stored for name, weight in parts.weights.items()},
        parts.records,
        parts.tied,
        described(model),
        tuple(labels) or labels_of(model),
        None if tokenizer is None else tokenizer_of(tokenizer),
        versions(),
        facts,
    )
    shapes = {key: (t.dtype, tuple(t.shape)) for key, t in parts.plain.items()}
    for name, weight in parts.weights.items():
        shapes |= {f"{name}.{part}": shape for part, shape in weight.shapes().items()}

    def fill(put: Put) -> None:
        for key, tensor in parts.plain.items():
            put(key, tensor.unpacked() if isinstance(tensor, StoredWeight) else tensor)
        for name, weight in parts.weights.items():
            for part, piece in weight.pieces():
                put(f"{name}.{part}", piece)

    write(Path(path), shapes, contents.to_metadata(), fill)


@dataclass(frozen=True)
class _Weight:
    """A weight that is stored otherwise than as a tensor of its shape."""

    stored: WeightText
    layer: QuantizedLayer

    def shapes(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of its parts."""
        if self.stored.format is not None:
            return self.stored.coded_shapes().parts()
        assert self.stored.kept is not None
        elements = torch.Size(self.stored.shape).numel()
        return {
            "values": (self.stored.values_dtype, (self.stored.kept,)),
            "mask": (torch.uint8, (packed_bytes(elements, 1),)),
        }

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """Names of parts, and what comes next in each of them: little is in memory at a time."""
        if self.stored.format is None:
            yield from self._masked()
        elif (coded := _coded(self.layer)) is not None:
            yield from coded.parts().items()
        else:
            yield from encoded(*_rounded(self.layer))

    def _masked(self) -> Iterator[tuple[str, Tensor]]:
        mask = self.layer.weight_mask
        assert mask is not None
        values = _parameter(self.layer).detach().reshape(-1).split(_AT_ONCE)
        for part, keeps in zip(values, mask.reshape(-1).split(_AT_ONCE), strict=True):
            yield "values", part[keeps]
            yield "mask", pack_bits(keeps, 1)


class _Parts:
    """What a file has of a model.

    Attributes:
        weights: Weights in codes or with a mask, by name.
        plain: All other tensors, by name.
        records: The recipe of each quantised layer.
        tied: Each further name of a tensor, and the one that it is stored under.
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.weights: dict[str, _Weight] = {}
        self.plain: dict[str, Tensor] = {}
        self.tied: dict[str, str] = {}
        self.records: dict[str, LayerRecord] = records_of(state)
        modules = dict(model.named_modules(remove_duplicate=False))
        by_id = _names_by_id(modules)
        done: set[str] = {_joined(name, RECORD_KEY) for name in self.records}
        for names in by_id.values():
            owners = [_owner(modules, name) for name in names]
            if (weight := _weight(owners)) is None:
                continue
            self.weights[names[0]] = weight
            self.tied |= dict.fromkeys(names[1:], names[0])
            for name in names:
                layer = name.rpartition(".")[0]
                done |= {name, *(_joined(layer, key) for key in ("weight_mask",))}
                if isinstance(modules[layer], PackedLinear):
                    done |= {_joined(layer, key) for key in ("codes", "exponents")}
        first: dict[int, str] = {}
        for key, value in state.items():
            if key in done:
                continue
            if not isinstance(value, Tensor):
                raise InputValueError(
                    f"export: {key!r} in the state of the model is a {type(value).__name__}; only "
                    "tensors can be saved."
                )
            if (name := first.setdefault(id(value), key)) == key:
                self.plain[key] = value
            else:
                self.tied[key] = name


def _joined(layer: str, entry: str) -> str:
    return f"{layer}.{entry}" if layer else entry


def _names_by_id(modules: Mapping[str, nn.Module]) -> dict[int, list[str]]:
    """All names of each parameter, in order."""
    found: dict[int, list[str]] = {}
    for name, module in modules.items():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(_joined(name, key))
    return found


def _owner(modules: Mapping[str, nn.Module], name: str) -> QuantizedLayer | None:
    """The quantised layer whose weight that is."""
    layer, _, key = name.rpartition(".")
    module = modules[layer]
    return module if isinstance(module, QuantizedLayer) and module.weight_name == key else None


def _weight(owners: Sequence[QuantizedLayer | None]) -> _Weight | None:
    """How a weight that these layers share is stored; None if it is as a tensor of its shape."""
    first = owners[0]
    layers = [layer for layer in owners if layer is not None]
    if first is None or len(layers) < len(owners) or not _agree(layers):
        return None
    weight, mask, fmt = _parameter(first), first.weight_mask, first.formats.weight
    if weight.dtype not in NAMES:
        return None  # as a tensor it is refused
    if (coded := _coded(first)) is not None:
        shapes, masked = coded.shapes, coded.mask is not None
    elif fmt is not None and (first.enabled or isinstance(first, PackedLinear)):
        rows, columns = first.to_rows(torch.empty(weight.shape, device="meta")).shape
        masked = mask is not None
        kept = None if mask is None else kept_by(fmt, mask)
        shapes = CodedShapes(fmt, (rows, columns), weight.dtype, kept)
    elif fmt is None and mask is not None:
        size, name = tuple(weight.shape), NAMES[weight.dtype]
        return _Weight(WeightText(size, name, None, size, "bits", int(mask.count_nonzero())), first)
    else:
        return None
    return _Weight(WeightText.of(tuple(weight.shape), shapes, masked), first)


def _agree(layers: Iterable[QuantizedLayer]) -> bool:
    """Whether layers multiply with the same values of a weight that they share."""
    first, *others = layers
    if first.backend != "standard":
        return False
    return all(
        isinstance(each, PackedLinear) == isinstance(first, PackedLinear)
        and each.backend == first.backend
        and each.row_order() == first.row_order()
        and each.enabled == first.enabled
        and each.formats.weight == first.formats.weight
        and _are_equal(each.scales_of("weight"), first.scales_of("weight"))
        and _are_equal(each.fitted_of("weight"), first.fitted_of("weight"))
        and _are_equal(each.weight_mask, first.weight_mask)
        for each in others
        if each is not first
    )


def _are_equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _parameter(layer: QuantizedLayer) -> Tensor:
    return cast(Tensor, layer._parameters[layer.weight_name])


def encoded_weight(layer: QuantizedLayer) -> Coded:
    """The weight as it is multiplied in eval mode, in codes."""
    coded = _coded(layer)
    return encode(*_rounded(layer)) if coded is None else coded


def _coded(layer: QuantizedLayer) -> Coded | None:
    """The codes that the layer keeps, if they are those of its weight."""
    weight = _parameter(layer)
    if isinstance(weight, CodedWeight) and weight.format == layer.formats.weight:
        return weight.coded if layer.weight_mask is None else None
    return None


@torch.no_grad()
def _rounded(
    layer: QuantizedLayer,
) -> tuple[NumberFormat, Tensor, Tensor | None, Tensor | None]:
    """Format, rows, scales and mask, of which the codes of a weight are made."""
    weight, fmt, mask = _parameter(layer), layer.formats.weight, layer.weight_mask
    assert fmt is not None
    rows = layer.to_rows(weight.detach() + 0 if isinstance(layer, PackedLinear) else weight)
    scales, fitted = layer.scales_of("weight"), layer.fitted_of("weight")
    if scales is not None and fitted is not None and not fitted > 0:
        fit = fmt.fit_scales(rows)  # as evaluating does
        assert fit is not None
        scales = nn.Parameter(fit.to(scales))
    return fmt, rows, scales, None if mask is None else layer.to_rows(mask)
