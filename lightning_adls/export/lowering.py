"""Run a quantised model by int8 products on the CPU."""

from copy import deepcopy
from itertools import chain
from typing import cast

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.kernels.int8 import ENGINES, fastest_engine
from lightning_adls.layers import QuantizedLayer
from lightning_adls.layers.int8_linear import lowered, reason_against
from lightning_adls.transforms.walk import layers_of, replace_layers

_KINDS = ("Linear", "TransformersConv1D")


def lower(model: nn.Module, engine: str | None = None) -> nn.Module:
    """A copy of a quantised model whose linear layers multiply integers of 8 bits, on the CPU.

    These are the linear layers whose input and weight are rounded to ``Integer`` or
    ``LearnedInteger``, or both to ``MXInt`` or ``BlockFP`` in blocks of one size, of at most 8 bits
    each, with any bias and mask. They become those of
    :mod:`lightning_adls.layers.int8_linear`; all others stay as they are, and :func:`lowerable`
    says why. Sums of products are exact, in blocks those of each block, so that outputs differ from
    those of the model in eval mode as float32 sums do that are taken in another order, and are the
    same in every run. A NaN becomes the smallest integer of the format.

    The copy is for inference, in eval mode, of any batch and length, eager or compiled. Its state
    dict holds the integers and fits what another call made of the same model. To keep the model in
    a file, save it before it is lowered, and lower what was loaded.

    Args:
        model: Quantised, on the CPU. It is not changed; the copy shares the tensors of the layers
            that are not lowered.
        engine: ``avx2`` is a kernel of this package, compiled for this machine at the first call;
            ``onednn`` is ``torch._int_mm``, which is fast where the CPU has VNNI or AMX. By default
            the faster of both for this CPU. Blocks are for ``avx2`` in any case.

    Raises:
        ValueError: If no layer can be lowered, this CPU has nothing that is faster, there is no
            C++ compiler, or there is no such engine.

    Example:
        >>> import torch
        >>> from lightning_adls import Quantize
        >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
        >>> recipe = "Integer(width=8, frac_width=6)"
        >>> Quantize({"*": {"input": recipe, "weight": recipe}})(model)
        >>> lowered = lower(model)
        >>> type(lowered[0]).__name__
        'Int8Linear'
        >>> torch.allclose(lowered(torch.ones(1, 32)), model(torch.ones(1, 32)), atol=1e-5)
        True
    """
    if engine is not None and engine not in ENGINES:
        raise InputValueError(
            f"lower: engine={engine!r} is none; there are {' and '.join(ENGINES)}."
        )
    model = getattr(model, "_orig_mod", model)  # what was compiled
    reasons = lowerable(model)
    if not any(reason is None for reason in reasons.values()):
        why = "; ".join(dict.fromkeys(str(reason) for reason in reasons.values()))
        raise InputValueError(
            f"lower: {type(model).__name__} has no layer for int8 products ("
            f"{why or 'no linear layer'}); round input and weight of its linear layers to Integer, "
            "LearnedInteger, MXInt or BlockFP of at most 8 bits."
        )
    chosen = fastest_engine() if engine is None else engine
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    # Held by another module, so that the model itself may be a layer that is replaced.
    copy = nn.Sequential(deepcopy(model, dict(tensors))).eval()
    names = [f"0.{name}".rstrip(".") for name, reason in reasons.items() if reason is None]
    replace_layers(copy, names, lambda _, layer: lowered(cast(QuantizedLayer, layer), chosen))
    return copy[0]


def lowerable(model: nn.Module) -> dict[str, str | None]:
    """Why each linear layer of a model cannot be lowered, by its name; None if it can.

    Layers that a module reads past their calls, or of a subclass, are not among them.

    Example:
        >>> from lightning_adls import Quantize
        >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> Quantize({"0": "Integer(width=8)", "2": "Log"})(model)
        >>> lowerable(model)
        {'0': None, '2': 'the input is rounded to Log(width=8), no integers'}
    """
    held = layers_of(nn.Sequential(model), _KINDS)
    return {name.removeprefix("0").removeprefix("."): reason_against(m) for name, m in held.items()}
