"""A graph in ONNX: integers by QuantizeLinear and DequantizeLinear, all else by plain operators."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.export.examples import (
    ExampleInputs,
    Inputs,
    example_inputs,
    network_of,
)
from lightning_adls.export.facts import check_facts, texts
from lightning_adls.export.frozen import check_exportable, frozen
from lightning_adls.export.replacing import replacing
from lightning_adls.export.steps import OPSET, check_finite, held_steps
from lightning_adls.export.traced import computing, free, refusing
from lightning_adls.layers import QuantizedLayer

_WHO = "export.onnx"
_LARGEST = 2**31 - 2**24  # of a file, and room for what are no weights


def onnx(
    model: nn.Module,
    path: str | Path,
    inputs: Inputs | None = None,
    *,
    labels: Sequence[str] = (),
    **facts: Any,
) -> Path:
    """Write a model as a graph in ONNX, opset 21, that ONNX Runtime, OpenVINO and others run.

    What standard layers round to ``Integer`` or ``LearnedInteger`` of at most 16 bits is rounded by
    QuantizeLinear and DequantizeLinear, with the format's step: activations to 8 bits (16 if the
    format has more than 8), clipped before where the format has fewer, weights and biases stored as
    integers of 4 bits where these hold them, of 8 or of 16. Other formats round inputs by plain
    operators; weights and biases are stored rounded, as the few values that they take or in 16 bits
    where that loses nothing.

    A NaN in an input becomes a number where QuantizeLinear rounds it. See
    :func:`lightning_adls.export.session` for processors on which ONNX Runtime multiplies integers
    wrongly unless it is told not to.

    Args:
        model: A network or a ``TextClassifier``, on any device; not changed. The graph is that of
            its eval mode.
        path: Of the file, by custom ``.onnx``. An older one stays until the new one is whole.
        inputs: What the model is called with; see :func:`lightning_adls.export.example_inputs`. The
            graph takes any number of rows, and of texts any length; its inputs have these names. Of
            a classifier of texts the output is ``logits``.
        labels: Names of the classes, in order; by default those of the network's configuration.
        facts: What else the file shall tell, such as ``accuracy=0.91``: numbers, texts and lists of
            them. They are with recipe, network, labels and versions among the metadata, in JSON.

    Returns:
        The path.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If inputs are missing or wrong, a fact is none that JSON can hold, a layer
            cannot be exported (see :func:`lightning_adls.export.frozen.check_exportable`) or has a
            NaN, the weights are of bfloat16 or take more than 2 GB, or the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Quantize
        >>> from lightning_adls.export import session
        >>> model, x = nn.Sequential(nn.Linear(64, 2)).eval(), torch.randn(5, 64)
        >>> Quantize({"*": "Integer(width=4, frac_width=2)"})(model)
        >>> with TemporaryDirectory() as folder:
        ...     path = onnx(model, f"{folder}/model.onnx", torch.zeros(1, 64))
        ...     (output,) = session(path).run(None, {"input": x.numpy()})
        >>> torch.allclose(torch.from_numpy(output), model(x))
        True
    """
    path = Path(path)
    check_facts(facts)
    examples = example_inputs(model, inputs)
    _check(model)
    told = texts(model, labels, facts)
    graph = _graph(frozen(model, held_steps), examples)
    import onnx_ir

    from lightning_adls.export.constants import shrink

    shrink(graph)
    graph.metadata_props.update(told)
    graph.producer_name, graph.producer_version = "lightning_adls", version("lightning_adls")
    with replacing(path) as part:
        onnx_ir.save(graph, part)
    return path


def _check(model: nn.Module) -> None:
    try:
        import onnxscript  # noqa: F401 and with it onnx_ir
    except ImportError as error:
        raise MissingPackageError(
            f"{_WHO}: {error.name} is not installed; run pip install 'lightning_adls[export]'."
        ) from error
    check_exportable(model, _WHO)
    network = network_of(model)
    tensors = {id(t): t.numel() * 4 for t in chain(network.parameters(), network.buffers())}
    if (size := sum(tensors.values())) > _LARGEST:
        raise InputValueError(
            f"{_WHO}: the network has {size / 1e9:.1f} GB of weights, and a file in ONNX holds 2; "
            "use export.program or export.save."
        )
    for name, parameter in network.named_parameters():
        if parameter.dtype == torch.bfloat16:
            raise InputValueError(
                f"{_WHO}: {name!r} is of bfloat16, in which ONNX Runtime does not multiply; export "
                "copy.deepcopy(model).float(), or use export.program."
            )
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLayer):
            check_finite(name, layer, _WHO)


def _graph(network: nn.Module, examples: ExampleInputs) -> Any:
    """The graph, whose constants are those of torch."""
    computes = computing(network)
    # From the module and no program: what is traced has to know that it becomes ONNX.
    with torch.no_grad(), _quiet(), refusing("torch.onnx", computes):
        made = torch.onnx.export(
            computes,
            examples.args,
            kwargs=examples.kwargs,
            input_names=list(examples.tensors),
            output_names=None if computes is network else ["logits"],
            opset_version=OPSET,
            dynamic_shapes=free(computes, examples),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    graph: Any = made.model.graph
    called: dict[Any, str] = {}
    for value, dims in zip(graph.inputs, examples.dims.values(), strict=True):
        called |= {value.shape[dim]: name for dim, name in dims.items()}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = type(value.shape)([called.get(size, size) for size in value.shape])
    return made.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself and of packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
