"""A graph of torch that a process loads without this package."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from lightning_adls.errors import InputValueError
from lightning_adls.export.examples import Inputs, example_inputs
from lightning_adls.export.facts import check_facts, texts
from lightning_adls.export.frozen import check_exportable, frozen
from lightning_adls.export.replacing import replacing
from lightning_adls.export.traced import traced


def program(
    model: nn.Module,
    path: str | Path,
    inputs: Inputs | None = None,
    *,
    labels: Sequence[str] = (),
    **facts: Any,
) -> Path:
    """Write a model as a program of ``torch.export``, of torch's own operators alone.

    ``torch.export.load(path).module()`` computes what the model computes in eval mode, for any
    number of rows, of texts for any length, without this package. Weights and biases are stored as
    they are multiplied, in their data type; inputs are rounded by the steps of their formats.
    Packed layers are unpacked.

    Torch reads programs by code that unpickles what it does not know: load those that you trust.

    Args:
        model: A network or a ``TextClassifier``, on any device; not changed. The program computes
            on the CPU; see ``torch.export.passes.move_to_device_pass``.
        path: Of the file, which ends in ``.pt2``. An older one stays until the new one is whole.
        inputs: What the model is called with; see :func:`lightning_adls.export.example_inputs`.
            What is given by name is taken by name.
        labels: Names of the classes, in order; by default those of the network's configuration.
        facts: What else the file shall tell, such as ``accuracy=0.91``: numbers, texts and lists of
            them. ``torch.export.load`` gives it with recipe, network, labels and versions as the
            entry ``lightning_adls.json`` of its ``extra_files``.

    Returns:
        The path.

    Raises:
        ValueError: If the path has another ending, inputs are missing or wrong, a fact is none that
            JSON can hold, a layer cannot be exported (see
            :func:`lightning_adls.export.frozen.check_exportable`) or the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Quantize
        >>> model, x = nn.Sequential(nn.Linear(64, 2)).eval(), torch.randn(5, 64)
        >>> Quantize({"*": "MXInt(width=4)"})(model)
        >>> with TemporaryDirectory() as folder:
        ...     path = program(model, f"{folder}/model.pt2", torch.zeros(1, 64))
        ...     loaded = torch.export.load(path).module()
        >>> torch.equal(loaded(x), model(x))
        True
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise InputValueError(f"export.program: path={str(path)!r} does not end in .pt2.")
    check_facts(facts)
    examples = example_inputs(model, inputs)
    check_exportable(model, "export.program")
    told = json.dumps(
        {name: json.loads(text) for name, text in texts(model, labels, facts).items()}
    )
    made: ExportedProgram = traced(frozen(model), examples)
    with replacing(path) as part, warnings.catch_warnings():
        # Of weights that lie otherwise than their shape says, all of which are on the CPU.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(made, part, extra_files={"lightning_adls.json": told})
    return path
