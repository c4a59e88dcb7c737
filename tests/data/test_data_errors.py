"""What TextData refuses, and what it says then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from lightning_adls import hub
from lightning_adls.data import TextData

Columns = dict[str, list[Any]]
GOOD: Columns = {"text": [f"good film {i}" for i in range(20)], "label": [0, 1] * 10}


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A folder that holds a vocabulary and nothing else but the class of the tokenizer."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", *map(str, range(20))]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return str(folder)


Fit = Callable[..., None]


@pytest.fixture
def fit(tmp_path: Path, tokenizer: str) -> Fit:
    """Prepare the data of a folder with these splits, up to a stage."""

    def fit(train: Columns, test: Columns = GOOD, stage: str = "fit", **arguments: Any) -> None:
        for split, rows in (("train", train), ("test", test)):
            (tmp_path / "data").mkdir(exist_ok=True)
            pa.parquet.write_table(pa.table(rows), tmp_path / "data" / f"{split}.parquet")
        arguments = {"tokenizer": tokenizer, "cache_dir": str(tmp_path / "cache")} | arguments
        data = TextData(str(tmp_path / "data"), **arguments)
        data.prepare_data()
        data.setup(stage)

    return fit


def test_what_is_not_refused_works(fit: Fit) -> None:
    fit(GOOD)
    fit(GOOD, stage="test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 7}, "TextData: max_length=7 is too small; it must be 8 or more."),
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"limit_train": 0}, "limit_train=0"),
        ({"limit_val": 0}, "limit_val=0"),
        ({"limit_test": -1}, "limit_test=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"val_fraction": 0.0}, r"val_fraction=0.0 is not between 0 and 1"),
        ({"val_fraction": 1.0}, r"val_fraction=1.0"),
        ({"val_fraction": float("nan")}, "val_fraction=nan"),
        ({"truncation": "middle"}, r"truncation='middle' is none of .*'head', 'tail', 'head_tail'"),
        ({"test_split": "train"}, "test_split='train' is trained on"),
        ({"dataset": "imdb"}, "tokenizer=None does not go with dataset='imdb'"),
        ({"tokenizer": "bert"}, "tokenizer='bert' does not go with dataset='reviews'"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextData(**arguments)


def column(name: str, row: int, value: object) -> Columns:
    """Good rows but for one value."""
    values = list(GOOD[name])
    values[row] = value
    return GOOD | {name: values}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"review": GOOD["text"], "label": GOOD["label"]}, r"text='text' is no column of .*review"),
        ({"text": GOOD["text"], "stars": GOOD["label"]}, r"label='label' is no column of .*stars"),
        ({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "has no rows"),
        (column("text", 7, None), r"text='text' is missing in row 7 of .*\(train\)"),
        (column("label", 5, None), r"label='label' is missing in row 5 of .*\(train\)"),
        (GOOD | {"label": [0.0, float("nan")] * 10}, "label='label' is missing in row 1"),
        (GOOD | {"label": ["no", ""] * 10}, "label='label' is missing in row 1"),
        (GOOD | {"text": list(range(20))}, "text='text' of .* holds int64, not strings"),
        (GOOD | {"label": [0, 2] * 10}, r"has \[2\], outside 0..1; number the 2 classes"),
        (GOOD | {"label": [-1, 1] * 10}, r"has \[-1\], outside 0..1"),
        (GOOD | {"label": [0.0, 0.5] * 10}, "holds float64 values; use whole numbers"),
        (GOOD | {"label": [-1] * 20}, "-1 in every row: the split seems to be unlabelled"),
        (GOOD | {"label": [0] * 20}, "is '0' in every row; a classifier needs two"),
        (GOOD | {"label": [[0], [1]] * 10}, "holds object values; use whole numbers"),
    ],
)
def test_training_rows_that_cannot_be_used_are_refused(
    train: Columns, message: str, fit: Fit
) -> None:
    with pytest.raises(ValueError, match=f"^TextData: .*{message}"):
        fit(train)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [0, 2], r"\(test\) has \[2\], outside 0..1"),
        ([0, 1], [-1, -1], "-1 in every row: .* unlabelled.*test_split='validation'"),
        (["no", "yes"], ["no", "maybe"], r"\(test\) has \['maybe'\], which train lacks"),
        (["no", "yes"], [0, 1], r"\(test\) holds numbers, but train holds the strings"),
        ([0, 1], [0, None], r"missing in row 1 of .*\(test\)"),
    ],
)
def test_test_labels_must_be_those_of_train(
    train: list[Any], test: list[Any], message: str, fit: Fit
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(GOOD | {"label": train * 10}, GOOD | {"label": test * 10}, "test")


def test_a_test_split_need_not_have_every_class(fit: Fit) -> None:
    fit(GOOD | {"label": ["a", "b"] * 10}, GOOD | {"label": ["b"] * 20}, "test")
    fit(GOOD, GOOD | {"label": [0] * 20}, "test")


def test_a_test_split_that_is_not_there_is_refused_before_training(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"test_split='dev' is no split of .*\['test', 'train'\]"):
        fit(GOOD, test_split="dev")


def test_a_folder_without_training_rows_is_refused(fit: Fit, tmp_path: Path) -> None:
    fit(GOOD)
    (tmp_path / "data" / "train.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no split 'train'; it has \['test'\]"):
        TextData(str(tmp_path / "data"), tokenizer=str(tmp_path / "tokenizer")).prepare_data()


@pytest.mark.parametrize("name", ["nothing.csv", "./nothing", "~/nothing", "/no/thing", "a/b/c"])
def test_a_path_to_nothing_is_refused_without_asking_the_hub(
    name: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", None)
    data = TextData(name, tokenizer=tokenizer, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=f"dataset='{name}' is no file or folder"):
        data.prepare_data()


def test_what_the_hub_says_is_passed_on(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> None:
        raise ConnectionError("Could not\nreach the hub")

    monkeypatch.setattr(hub, "_answers", lambda *_: True)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    data = TextData("stanfordnlp/imbd", tokenizer=tokenizer, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"'stanfordnlp/imbd'.*Could not reach .*folder"):
        data.prepare_data()


def test_a_file_of_another_kind_is_refused(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_text("")
    data = TextData(str(tmp_path / "data.xlsx"), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"not of a kind that is read: .parquet, .csv"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "text,label\na,0\nb,1,2\n"), ("x.jsonl", '{"text": "a"}\n{"text": 3}\n')],
)
def test_a_broken_file_is_named(name: str, content: str, tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    data = TextData(str(tmp_path / name), tokenizer=tokenizer, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=rf"TextData: dataset=.*{name}.* cannot be read"):
        data.prepare_data()


def test_a_single_row_cannot_be_divided(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("text,label\na,0\nb,1\n")
    data = TextData(str(tmp_path / "two.csv"), tokenizer=tokenizer, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"val_fraction=0\.1 leaves none of the 2 rows"):
        data.prepare_data()


def test_a_tokenizer_that_is_not_there_is_refused(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer='\./nothing' is no folder"):
        fit(GOOD, tokenizer="./nothing")


def test_a_folder_with_a_model_but_no_tokenizer_is_refused(fit: Fit, tmp_path: Path) -> None:
    # From the configuration alone Transformers makes a tokenizer that knows no word.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ValueError, match=r"has no vocabulary; its folder must hold tokenizer\.json"
    ):
        fit(GOOD, tokenizer=str(tmp_path / "model"))


def test_a_tokenizer_that_cannot_pad_is_refused(fit: Fit, tokenizer: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    loaded.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    folder = tmp_path / "unpadded"
    folder.mkdir()
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has no padding token"):
        fit(GOOD, tokenizer=str(folder))


def test_loaders_and_facts_wait_for_setup(tmp_path: Path) -> None:
    data = TextData(cache_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match=r"call prepare_data\(\) and setup\(\)"):
        data.num_classes  # noqa: B018
    data.setup("fit")
    with pytest.raises(RuntimeError, match=r"test rows are not loaded; .*setup\('test'\)"):
        data.test_dataloader()
