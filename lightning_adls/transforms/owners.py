"""Modules that read the weights of their layers and do not call them, and what has them call."""

from collections.abc import Container, Iterable

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_adls.layers import LayerFormats, is_kind, quantized
from lightning_adls.layers.attention import QuantizedMultiheadAttention


def out_of_reach(model: nn.Module) -> set[int]:
    """The ids of layers that their owner would go on reading if they were replaced.

    These are the output projections of attentions that cannot be replaced by one that calls them:
    subclasses, those of no kind, and the model itself.
    """
    read: set[int] = set()
    called: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            calls = isinstance(module, QuantizedMultiheadAttention)
            replaceable = module is not model and is_kind(module, "MultiheadAttention")
            (called if calls or replaceable else read).add(id(module.out_proj))
    # The class of such projections says that somebody reads them; it need not be torch's attention.
    others = {id(m) for m in model.modules() if type(m) is NonDynamicallyQuantizableLinear}
    return read | (others - called)


def calling_attentions(
    modules: Iterable[nn.Module], projections: Container[int]
) -> list[tuple[nn.Module, nn.Module]]:
    """Each plain attention whose output projection is among the ids, and one that calls it.

    Raises:
        ValueError: If an attention cannot be replaced.
    """
    return [
        (attention, quantized(attention, LayerFormats()))
        for attention in modules
        if QuantizedMultiheadAttention.stands_for(attention)
        and id(attention.out_proj) in projections
    ]


def call_layers(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Keep torch's encoders that hold one of the layers from their fused path."""
    ids = set(map(id, layers))
    for owner in model.modules():
        if isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerEncoder) and any(
            id(module) in ids for module in owner.modules()
        ):
            if isinstance(owner, nn.TransformerEncoder):
                owner.use_nested_tensor = False
            else:
                # What it asks before it takes the path; what is called is `activation`.
                owner.activation_relu_or_gelu = 0
