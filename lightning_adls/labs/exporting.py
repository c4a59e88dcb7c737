"""Exporting a trained model for several engines, and comparing what was written with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_adls import export
from lightning_adls.data.tokens import load_encoder
from lightning_adls.errors import InputValueError
from lightning_adls.export.predicting import TOKENIZER
from lightning_adls.labs.tables import table
from lightning_adls.labs.trained import TrainedModel
from lightning_adls.models.description import plain_shapes
from lightning_adls.report import Row, write_csv
from lightning_adls.transforms.cost import costs, count_parameters
from lightning_adls.transforms.fitting import network_of

Split = Literal["val", "test"]

# By target, the file or folder.
FILES = {
    "packed": "model.safetensors",
    "onnx": "model.onnx",
    "program": "model.pt2",
    "compressed_tensors": "compressed_tensors",
}
COLUMNS = {
    "target": ("target", ""),
    "largest_difference": ("logits", ".1e"),
    "flips": ("flips", "d"),
    "p_value": ("p", ".2g"),
    "accuracy": ("accuracy", ".4f"),
    "bytes": ("bytes", ",d"),
    "bits_per_parameter": ("bits/par.", ".2f"),
}


def folder_of_export(trained: TrainedModel) -> Path:
    """Where the exports of a model lie."""
    return trained.folder / "export" / trained.name.replace("/", "_")


def write(trained: TrainedModel, folder: Path, target: str) -> Path:
    """Export a model for one target; labels, tokenizer, lengths and accuracies go into the file.

    The files of the tokenizer are written beside it: :class:`lightning_adls.export.Predictor` needs
    nothing else.

    Args:
        trained: The model.
        folder: Where.
        target: One of ``FILES``.

    Returns:
        The file, or the folder of ``compressed_tensors``.

    Raises:
        ImportError: If a package is not installed.
        ValueError: If the target cannot express the model, or the file cannot be written; or if a
            packed file would not say enough to make the network again.
    """
    texts, path = trained.texts, folder / FILES[target]
    encoder = load_encoder(texts.tokenizer)
    text = export.TextFacts.of(
        texts.tokenizer, texts.max_length, texts.truncation, texts.special_tokens
    )
    facts = {**trained.facts, "run": trained.run, "study": trained.name, "text": text.to_dict()}
    labels = texts.class_names
    writers: Mapping[str, Callable[[], Any]] = {
        "packed": lambda: export.save(
            trained.module, path, labels=labels, tokenizer=texts.tokenizer, **facts
        ),
        "onnx": lambda: export.onnx(trained.module, path, labels=labels, **facts),
        "program": lambda: export.program(trained.module, path, labels=labels, **facts),
        "compressed_tensors": lambda: export.compressed_tensors(
            trained.module, path, labels=labels, tokenizer=encoder.to_save(texts.max_length)
        ),
    }
    if target == "packed":
        _check_made_again(trained)
    writers[target]()
    encoder.save(folder / TOKENIZER, texts.max_length)
    return path


def _check_made_again(trained: TrainedModel) -> None:
    network = trained.module.model
    plain = plain_shapes(network)
    for key, shape in network_of(network.state_dict()).items():
        if plain.get(key) != shape:
            raise InputValueError(
                f"export: packed: {key!r} has the shape {shape}, and {plain.get(key)} in the "
                "network that its configuration describes; a packed file does not say what "
                "structured pruning removed. Export it --to onnx or program, or from Python by "
                "export.save, and give export.load a function that makes the pruned network."
            )


def compare(
    trained: TrainedModel, files: Mapping[str, Path], folder: Path, split: Split
) -> list[Row]:
    """Compare what was written with the model, on the rows of a split, into ``verification.csv``.

    Args:
        trained: The model.
        files: By target, what :func:`write` returned.
        folder: Where the table goes.
        split: The rows.

    Returns:
        A row for the model and for each target: those of :func:`lightning_adls.export.verify`, and
        ``bits_per_parameter``, the bits of the file for each of the model's parameters.
    """
    if split == "test":
        trained.texts.setup("test")
    loader = {"val": trained.texts.val_dataloader, "test": trained.texts.test_dataloader}[split]()
    found = export.verify(trained.module, files, loader, name="trained")
    parameters = count_parameters(trained.module)
    rows = [{**row, "bits_per_parameter": 8 * row["bytes"] / parameters} for row in found.rows()]
    write_csv(folder / "verification.csv", [{"split": split, **row} for row in rows])
    return rows


def shown(rows: Sequence[Row], split: Split) -> Any:
    """The table for the screen."""
    return table(f"Exported, on {rows[0]['rows']:,} {split} rows", rows, COLUMNS)


def described(trained: TrainedModel) -> str:
    """Which model it is, and how large by its formats."""
    found = costs(trained.module)
    return (
        f"{trained.name} of {trained.run}: {found['parameters']:,} parameters, "
        f"{found['bits_per_weight']:.2f} bits per weight of its linear layers"
    )


def check_targets(targets: Sequence[str]) -> None:
    """Refuse what is no target.

    Raises:
        ValueError: If there is one, or there are none.
    """
    for target in targets:
        if target not in FILES:
            raise InputValueError(f"to={target!r} is none of {', '.join(FILES)}.")
