"""Names that MASE's quantisation configs use, and what they are here."""

from torch import fx, nn

from lightning_adls.layers import KINDS, is_kind

# MASE's types of layers that are layers here, and the others that its passes quantise.
TYPES = {"Linear": "linear", "Conv1d": "conv1d", "Conv2d": "conv2d"}
OPERATIONS = (
    *("add", "batch_norm2d", "bmm", "convtranspose2d", "gelu", "group_norm"),
    *("grouped_query_attention", "instance_norm2d", "layer_norm", "matmul", "mul", "relu"),
    *("rms_norm", "selu", "softplus", "softsign", "sub", "tanh"),
)
# Kinds that MASE has besides those of `keys`: not formats of a layer, or without a counterpart.
FOREIGN = ("flexround", "logicnets", "lutnet", "mxint_hardware")
SIGNS = ("binary", "binary_residual", "binary_scaling", "ternary")
# Kinds that mean the same for a convolution: MASE blocks the kernel, where a layer here blocks what
# it sums over, and its binary convolutions round other tensors.
ELEMENTWISE = ("fixed", "integer", "log", "minifloat_denorm", "minifloat_ieee")

OPTIONS = {
    "baseline_weight_path": "no weights are loaded",
    "gptq": "weights are not changed before they are rounded",
    "load_type": "no weights are loaded",
    "report": "nothing is printed; `summarize` tells about a model",
}


def kind_of(layer: nn.Module) -> str:
    """The kind of a layer, of ``lightning_adls.layers.KINDS``."""
    return next(kind for kind in KINDS if is_kind(layer, kind))


def graph_name(module: str) -> str:
    """The name of a module in MASE's graph, which is one of ``torch.fx``.

    Example:
        >>> graph_name("encoder.layer.0.attention.self.query")
        'encoder_layer_0_attention_self_query'
    """
    return fx.Graph().call_module(module).name
