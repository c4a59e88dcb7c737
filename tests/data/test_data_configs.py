"""The data sets in configs/data."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from lightning_adls.data import TextData

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))
BERT = "google-bert/bert-base-uncased"


def read(path: Path) -> TextData:
    """What the scripts make of ``--data path``: types are checked, then the values."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TextData, "data")
    data = parser.instantiate(parser.parse_args(["--data", str(path)])).data
    assert isinstance(data, TextData)
    return data


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_is_fields_of_text_data_and_is_taken_as_written(path: Path) -> None:
    fields = yaml.safe_load(path.read_text())
    data = read(path)
    assert {name: getattr(data, name) for name in fields} == fields
    assert TextData(**fields).hparams == data.hparams


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reviews", {"dataset": "reviews", "tokenizer": None}),
        (
            "imdb",
            {"dataset": "stanfordnlp/imdb", "tokenizer": BERT, "text": "text", "label": "label"}
            | {"test_split": "test", "max_length": 256, "truncation": "head_tail"},
        ),
        (
            "sst2",
            {"dataset": "nyu-mll/glue", "subset": "sst2", "tokenizer": BERT, "text": "sentence"}
            | {"label": "label", "test_split": "validation", "max_length": 64},
        ),
    ],
)
def test_the_known_data_sets_are_named_as_the_hub_has_them(
    name: str, fields: dict[str, Any]
) -> None:
    (path,) = (path for path in CONFIGS if path.stem == name)
    assert fields.items() <= read(path).hparams.items()
