"""Models that runs left behind, made again from their files alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace

from lightning_adls.checkpoints import load
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError, MissingFileError, did_you_mean
from lightning_adls.labs.network import network_factory
from lightning_adls.labs.stored import StoredRun
from lightning_adls.models import FROM_DATA
from lightning_adls.report import Row
from lightning_adls.search import Architecture
from lightning_adls.transforms.configs import read

# What a file shall tell of the model, by the columns of a run's rows.
_FACTS = (
    *("val_accuracy", "val_standard_error", "test_accuracy", "test_standard_error"),
    "bits_per_weight",
)


@dataclass(frozen=True)
class TrainedModel:
    """A model, with the data that it was trained on.

    Args:
        name: Of the model in its run.
        run: Of the run, such as ``lab3/default``.
        folder: Of the run.
        module: The model, in eval mode.
        texts: The data, set up to train and validate on.
        facts: What the run says of it, accuracies above all.
    """

    name: str
    run: str
    folder: Path
    module: TextClassifier
    texts: TextData
    facts: Mapping[str, Any]


def of_run(run: StoredRun, name: str | None = None) -> TrainedModel:
    """One of the models that a run of Labs 0 to 3 left.

    Args:
        run: Finished, at least with some of its studies or models.
        name: Of a study of Lab 3, or of a model in the ``summary.json`` of the others, such as
            ``merged``, ``quantised`` or ``aware_retrained``; by default the best on the validation
            rows.

    Raises:
        FileNotFoundError: If its weights are gone.
        ValueError: If the run is of another lab, is not finished, has no such model, or the weights
            of the model are not here.
    """
    who = f"run={str(run.folder)!r}"
    if run.lab not in ("lab0", "lab1", "lab2", "lab3"):
        raise InputValueError(
            f"{who} is one of {run.lab}, which leaves no models that could be made again; give a "
            "run of lab0, lab1, lab2 or lab3, or the --checkpoint of a training."
        )
    if not run.results:
        raise InputValueError(
            f"{who} is not finished: it has no summary.json with a model; the command that began "
            "it goes on."
        )
    name = _best(run) if name is None else name
    if name not in run.results:
        known = ", ".join(run.results)
        meant = did_you_mean(name, run.results) or ";"
        raise InputValueError(f"study={name!r} is none of {who}{meant} there are {known}.")
    row = run.results[name]
    checkpoint = row.get("best_checkpoint", row.get("checkpoint"))
    if checkpoint is None:
        raise InputValueError(
            f"study={name!r} of {who} has nothing to export: the weights of its best trial are not "
            "here."
        )
    texts = _texts(run.config, _seed(run, row))
    network = _network(run.config["model"], texts, row.get("architecture"))
    for description in row["recipe"] if run.lab == "lab1" else ():
        read(description)(network)  # what removes layers or rows is in no checkpoint
    module = load(TextClassifier(network, num_classes=texts.num_classes), run.folder / checkpoint)
    facts = {key: row[key] for key in _FACTS if row.get(key) is not None}
    return TrainedModel(name, f"{run.lab}/{run.name}", run.folder, module, texts, facts)


def of_checkpoint(path: Path) -> TrainedModel:
    """The model of a checkpoint that scripts/train.py wrote, in the folder of its fit.

    Raises:
        FileNotFoundError: If the checkpoint, or the ``config.yaml`` of its fit, is not there.
        ValueError: If it is none, or does not fit the network that the fit had.
    """
    who = f"checkpoint={str(path)!r}"
    if not path.is_file():
        raise MissingFileError(f"{who} is not there; give the path of a file.")
    folder = path.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        raise MissingFileError(
            f"{who}: there is no config.yaml in {folder}, which says what network and data it is "
            "of; leave it in the folder of its fit."
        )
    config: Any = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    try:
        section = config["model"]["model"]
        texts = _texts(config, int(config["seed_everything"]))
    except (KeyError, TypeError) as error:
        raise InputValueError(
            f"{who}: {folder / 'config.yaml'} is not one of scripts/train.py ({error} is missing)."
        ) from error
    loaded = load(TextClassifier, path, model=_network(section, texts))
    module = TextClassifier(loaded.model, num_classes=texts.num_classes).eval()
    run = f"{folder.parent.name}/{folder.name}"
    facts = {"val_accuracy": _accuracy(module, texts)}
    return TrainedModel(path.stem, run, folder, module, texts, facts)


@torch.no_grad()
def _accuracy(module: TextClassifier, texts: TextData) -> float:
    """On the validation rows, which a checkpoint of a fit does not tell."""
    right = 0
    for batch in texts.val_dataloader():
        right += int((module.logits(batch).argmax(-1) == batch["labels"]).sum())
    return right / texts.row_counts["val"]


def _best(run: StoredRun) -> str:
    """The best model; of Lab 1, whose steps have names of their own, the quantised one."""
    if run.lab == "lab0":
        # Adapters that are merged compute the same, by plain layers.
        trained = [name for name in ("full", "merged") if name in run.results]
        if not trained:
            raise InputValueError(
                f"run={str(run.folder)!r} has no model that was trained; the command that began "
                "it goes on."
            )
        return max(trained, key=lambda name: float(run.results[name]["val_accuracy"]))
    return "quantised" if run.lab == "lab1" else str(run.summary["best"]["best"])


def _seed(run: StoredRun, row: Row) -> int:
    # A search of Lab 2 is called <kind>/<sampler>/<seed>.
    return int(row["study"].rpartition("/")[2]) if run.lab == "lab2" else int(run.config["seed"])


def _texts(config: Mapping[str, Any], seed: int) -> TextData:
    data = dict(config["data"])
    texts = TextData(**{**data, "seed": seed if data.get("seed") is None else data["seed"]})
    texts.prepare_data()
    texts.setup("fit")
    return texts


def _network(section: Row, texts: TextData, architecture: Row | None = None) -> Any:
    # What the data decide is also in the file of a fit.
    given = {k: v for k, v in section.get("init_args", {}).items() if k not in FROM_DATA}
    init_args = Namespace(**given)
    named = Namespace(class_path=section["class_path"], init_args=init_args)
    named["dict_kwargs"] = section.get("dict_kwargs", {})
    make = partial(
        network_factory(named),
        num_classes=texts.num_classes,
        vocab_size=texts.vocab_size,
        pad_token_id=texts.pad_token_id,
    )
    if architecture is None:
        return make()
    identities = tuple(architecture["identities"])
    return Architecture(**{**architecture, "identities": identities}).build(make)
