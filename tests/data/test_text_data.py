"""TextData: what it reads, how it divides, what it keeps, and how a Trainer runs on it."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from lightning_adls.data import TextData, reviews
from lightning_adls.data.batching import Batch, LengthBatches
from lightning_adls.data.tokens import Cached, Encoder, cached
from lightning_adls.errors import InputValueError

Columns = dict[str, list[Any]]
TEXTS = ["The plot was dull, but I loved the acting.", 'I "loved" it,\nthe music.', "A b c d e f g"]


def columns(rows: int, first: int = 0, classes: int = 2) -> Columns:
    """Rows that all differ; the class is the number modulo ``classes``."""
    texts = [f"row {first + i} {TEXTS[i % len(TEXTS)]}" for i in range(rows)]
    return {"text": texts, "label": [i % classes for i in range(rows)]}


def write(path: Path, rows: Columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(rows)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    else:
        tab = pa.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pa.csv.write_csv(table, path, tab)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer whose own truncation and padding must not have a say."""
    folder = tmp_path_factory.mktemp("tokenizer")
    made = reviews.tokenizer()
    made.enable_truncation(6)
    made.enable_padding(length=40)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=12, **names).save_pretrained(
        folder
    )
    return str(folder)


Make = Callable[..., TextData]


@pytest.fixture
def make(tmp_path: Path, tokenizer: str) -> Make:
    """Make a TextData of a file or folder in ``tmp_path``."""

    def make(name: str = "data", **arguments: Any) -> TextData:
        arguments = {"tokenizer": tokenizer, "cache_dir": str(tmp_path / "cache")} | arguments
        return TextData(str(tmp_path / name), **arguments)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 60 rows to train on and 20 to test on."""
    write(tmp_path / "data" / "train.parquet", columns(60))
    write(tmp_path / "data" / "test.parquet", columns(20, first=1000))
    return tmp_path / "data"


def ready(data: TextData, *stages: str) -> TextData:
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


def text_of(ids: Tensor) -> str:
    """A text as the tokenizer of the reviews decodes it."""
    return reviews_tokenizer().decode(ids.tolist()).replace(" ##", "")


reviews_tokenizer = cache(reviews.tokenizer)


def texts_of(loader: Any) -> list[str]:
    """The texts of a loader, sorted."""
    return sorted(text_of(row) for batch in loader for row in batch["input_ids"])


def row_number(text: str) -> int:
    """The number that ``columns`` wrote at the start of a text."""
    return int(text.split()[1])


def row_numbers(loader: Any) -> list[int]:
    return sorted(row_number(text) for text in texts_of(loader))


# What it reads


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_every_kind_of_file_gives_the_same_batches(
    suffix: str, folder: Path, make: Make, tmp_path: Path
) -> None:
    write(tmp_path / "other" / f"train{suffix}", columns(60))
    write(tmp_path / "other" / f"test{suffix}", columns(20, first=1000))
    expected, got = ready(make(), "fit", "test"), ready(make("other"), "fit", "test")
    for name in ("train_dataloader", "val_dataloader", "predict_dataloader"):
        for one, other in zip(getattr(expected, name)(), getattr(got, name)(), strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert len(got.train_dataloader().dataset) == 54  # type: ignore[arg-type]


def test_a_split_may_come_in_parts(folder: Path, make: Make, tmp_path: Path) -> None:
    rows = columns(60)
    for part in range(2):
        half = {key: values[30 * part :][:30] for key, values in rows.items()}
        write(tmp_path / "parts" / f"train-0000{part}-of-00002.parquet", half)
    shutil.copy(folder / "test.parquet", tmp_path / "parts")
    assert texts_of(ready(make("parts")).train_dataloader()) == texts_of(
        ready(make()).train_dataloader()
    )


def test_a_tree_of_texts_is_read_without_its_unlabelled_part(make: Make, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg", "unsup"):
            for i in range(10):
                path = tmp_path / "data" / split / label / f"{i}_7.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{'superb' if label == 'pos' else 'dull'} film <br /> {i}")
    (tmp_path / "data" / "README").write_text("about")
    data = ready(make(limit_train=1000), "fit", "test")
    assert data.class_names == ["neg", "pos"]
    for batch in [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]:
        for row, label in zip(batch["input_ids"], batch["labels"], strict=True):
            assert text_of(row).startswith("superb" if label else "dull")
    assert len(data.test_dataloader().dataset) == 20  # type: ignore[arg-type]


def test_string_labels_are_numbered_in_sorted_order(make: Make, tmp_path: Path) -> None:
    words = ["so", "bad", "good", "awful"]
    for split in ("train", "test"):
        rows = columns(80, classes=4)
        rows["opinion"] = [words[i % 4] for i in range(80)]
        write(
            tmp_path / "data" / f"{split}.csv", {"review": rows["text"], "opinion": rows["opinion"]}
        )
    data = ready(make(text="review", label="opinion"), "fit", "test")
    assert (data.num_classes, data.class_names) == (4, ["awful", "bad", "good", "so"])
    for batch in data.predict_dataloader():
        for index, label in zip(batch["index"].tolist(), batch["labels"].tolist(), strict=True):
            assert data.class_names[label] == words[index % 4]


def test_line_breaks_of_web_pages_are_cleaned(make: Make, tmp_path: Path) -> None:
    rows = columns(20)
    write(tmp_path / "plain.csv", rows | {"text": [f"dull. {text}" for text in rows["text"]]})
    write(tmp_path / "marked.csv", rows | {"text": [f"dull.<br /><br>{t}" for t in rows["text"]]})
    plain, marked = (
        texts_of(ready(make(name)).train_dataloader()) for name in ("plain.csv", "marked.csv")
    )
    assert plain == marked


def test_the_hub_is_asked_for_the_subset_and_names_the_classes(
    make: Make, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = columns(40)
    parts = {"sentence": rows["text"], "label": rows["label"]}
    hidden = {"sentence": rows["text"], "label": [-1] * 40}
    splits = {"train": parts, "validation": parts, "test": hidden}
    asked = []

    def load_dataset(*name: str) -> dict[str, datasets.Dataset]:
        asked.append(name)
        return {k: datasets.Dataset.from_dict(v, features=features) for k, v in splits.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    glue: dict[str, Any] = {
        "subset": "sst2",
        "text": "sentence",
        "tokenizer": tokenizer,
        "cache_dir": make().cache_dir,
    }
    data = ready(TextData("nyu-mll/glue", test_split="validation", **glue), "fit", "test")
    assert data.class_names == ["no", "yes"]
    assert set(asked) == {("nyu-mll/glue", "sst2")}
    asked.clear()
    ready(TextData("nyu-mll/glue", test_split="validation", **glue), "fit", "test")
    assert not asked
    with pytest.raises(ValueError, match=r"-1 in every row.*unlabelled.*test_split='validation'"):
        ready(TextData("nyu-mll/glue", **glue), "test")


def test_reviews_need_nothing_but_their_name(tmp_path: Path) -> None:
    data = ready(TextData(cache_dir=str(tmp_path)), "fit", "test")
    assert (data.class_names, data.vocab_size, data.pad_token_id) == (
        ["negative", "positive"],
        1000,
        0,
    )
    rows = [len(loader.dataset) for loader in (data.train_dataloader(), data.val_dataloader())]  # type: ignore[arg-type]
    assert rows == [7200, 800]
    assert texts_of(data.predict_dataloader())[0].islower()


# What it makes of a text


def test_texts_are_cut_and_padded_as_asked_not_as_the_tokenizer_would(
    folder: Path, make: Make
) -> None:
    whole = next(iter(ready(make()).train_dataloader()))["input_ids"]
    assert whole.shape[1] in (16, 24)
    assert (whole[:, 0] == 2).all()
    assert ((whole == 3).sum(1) == 1).all()
    short = next(iter(ready(make(max_length=11, truncation="tail")).train_dataloader()))
    assert short["input_ids"].shape[1] == 11
    assert (short["input_ids"][:, -1] == 3).all()


def test_long_texts_are_tokenised_without_a_warning(
    folder: Path,
    make: Make,
    tokenizer: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A copy, because a tokenizer warns but once.
    copied = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    ready(make(tokenizer=str(copied)))
    assert caplog.text == ""


def test_the_ways_to_truncate_keep_other_ends(folder: Path, make: Make) -> None:
    first, second, both = (
        texts_of(ready(make(max_length=10, truncation=how)).train_dataloader())
        for how in ("head", "tail", "head_tail")
    )
    # "row" is of the pieces r, o and w, and a quarter of the eight tokens is two.
    assert {text[:3] for text in first} == {"row"}
    assert {text[:3] for text in both} == {"ro "}
    assert not any(text.startswith("ro") for text in second)
    assert [text[-7:] for text in both].count("d e f g") == 18
    assert [text[-7:] for text in second].count("d e f g") == 18


# How it divides


def test_validation_is_a_balanced_part_of_train(folder: Path, make: Make) -> None:
    data = ready(make(val_fraction=0.2))
    train, val = row_numbers(data.train_dataloader()), row_numbers(data.val_dataloader())
    assert sorted(train + val) == list(range(60))
    assert len(val) == 12
    assert sum(row % 2 for row in val) == 6


def test_the_seed_decides_the_division(folder: Path, make: Make) -> None:
    val = [row_numbers(ready(make(seed=seed)).val_dataloader()) for seed in (0, 0, 1)]
    assert val[0] == val[1] != val[2]


def test_limits_keep_the_balance_and_spare_the_other_rows(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_tokenised(monkeypatch)
    data = ready(make(limit_train=10, limit_val=4, limit_test=6), "fit", "test")
    parts = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    for loader, rows in zip(parts, (10, 4, 6), strict=True):
        labels = torch.cat([batch["labels"] for batch in loader])
        assert (len(labels), int(labels.sum())) == (rows, rows // 2)
    assert counts == [14, 6]
    everything = ready(make())
    assert set(row_numbers(parts[1])) <= set(row_numbers(everything.val_dataloader()))


def test_fitting_does_not_touch_the_test_file(folder: Path, make: Make) -> None:
    (folder / "test.parquet").write_text("nobody can read this")
    assert ready(make()).num_classes == 2
    with pytest.raises(ValueError, match="cannot be read"):
        make().setup("test")


def test_a_single_file_is_divided_in_three_and_tested_on_the_same_rows_for_every_seed(
    make: Make, tmp_path: Path
) -> None:
    write(tmp_path / "all.csv", columns(50))
    parts = []
    for seed in (0, 1):
        data = ready(make("all.csv", seed=seed, val_fraction=0.2), "fit", "test")
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        train, val, test = (row_numbers(loader) for loader in loaders)
        assert sorted(train + val + test) == list(range(50))
        assert (len(train), len(val), len(test)) == (32, 8, 10)
        parts.append((val, test))
    assert parts[0][1] == parts[1][1]
    assert parts[0][0] != parts[1][0]


@pytest.mark.parametrize("dataset", ["data", "all.csv"])
def test_runs_that_differ_in_their_seed_are_tested_on_the_same_rows(
    folder: Path, make: Make, tmp_path: Path, dataset: str
) -> None:
    write(tmp_path / "all.csv", columns(50))
    tested, validated = [], []
    for seed in (0, 1, 2):
        arguments = {"seed": seed, "val_fraction": 0.2, "limit_test": 6, "eval_batch_size": 2}
        data = ready(make(dataset, **arguments), "fit", "test")
        # In order, too: a Trainer's limit_test_batches keeps the first ones.
        tested.append(torch.cat([batch["index"] for batch in data.predict_dataloader()]).tolist())
        validated.append(row_numbers(data.val_dataloader()))
    assert tested[0] == tested[1] == tested[2]
    assert validated[0] != validated[1]


def test_predictions_can_be_put_back_in_order(folder: Path, make: Make) -> None:
    data = ready(make(eval_batch_size=3), "predict")
    for batch in data.predict_dataloader():
        numbers = [row_number(text_of(ids)) for ids in batch["input_ids"]]
        assert numbers == (batch["index"] + 1000).tolist()
    met = torch.cat([batch["index"] for batch in data.predict_dataloader()])
    assert sorted(met.tolist()) == list(range(20))
    assert met.tolist() != list(range(20))
    assert "index" not in next(iter(data.test_dataloader()))


# What it keeps


def count_tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many texts each tokenising takes."""
    counts: list[int] = []
    encode = Encoder.encode

    def counting(self: Encoder, texts: list[str], title: str) -> dict[str, Tensor]:
        counts.append(len(texts))
        return encode(self, texts, title)

    monkeypatch.setattr(Encoder, "encode", counting)
    return counts


def test_the_same_texts_are_tokenised_once(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_tokenised(monkeypatch)
    first = list(ready(make()).train_dataloader())
    for arguments in ({}, {"max_length": 12}, {"seed": 5}, {"val_fraction": 0.3, "batch_size": 4}):
        again = list(ready(make(**arguments)).train_dataloader())
        if not arguments:
            assert all(
                torch.equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a
            )
    assert counts == [60]


def test_one_object_reads_its_data_once_until_its_arguments_change(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = TextData._read

    def counting(self: TextData, stage: str) -> Any:
        reads.append(stage)
        return read(self, stage)

    monkeypatch.setattr(TextData, "_read", counting)
    data = ready(make())
    first = [batch["input_ids"] for batch in data.train_dataloader()]
    ready(data)
    assert reads == ["fit"]
    data.setup("test")
    assert reads == ["fit", "test"]
    ready(data)
    again = [batch["input_ids"] for batch in data.train_dataloader()]
    assert reads == ["fit", "test"]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    data.limit_train = 5
    assert len(ready(data)._parts["train"]) == 5


def test_changed_texts_are_tokenised_again_even_if_the_file_is_as_long(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_tokenised(monkeypatch)
    for first in (100, 200):
        write(tmp_path / "all.csv", columns(50, first=first))
        assert row_numbers(ready(make("all.csv")).train_dataloader())[0] >= first
    assert len(counts) == 2


def test_another_tokenizer_tokenises_again(
    folder: Path, make: Make, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_tokenised(monkeypatch)
    ready(make())
    copied = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    ready(make(tokenizer=str(copied)))  # the same content in another place
    changed = (
        (copied / "tokenizer.json").read_text().replace('"lowercase":true', '"lowercase":false')
    )
    changed = changed.replace('"lowercase": true', '"lowercase": false')
    (copied / "tokenizer.json").write_text(changed)
    ready(make(tokenizer=str(copied)))
    assert counts == [60, 60]


def test_processes_that_tokenise_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    value = torch.arange(200_000)

    def read(_: int) -> bool:
        made = cached(tmp_path, {"a": 1}, lambda: Cached({"x": value.clone()}, ["word"]))
        return torch.equal(made.tensors["x"], value) and made.words == ["word"]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(32)))
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_kept_of_what_failed_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(tensors: object, path: Path, words: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    made = Cached({"x": torch.ones(2)}, [])
    with monkeypatch.context() as patch:
        patch.setattr("lightning_adls.data.tokens.save_file", torn)
        with pytest.raises(OSError, match="disk full"):
            cached(tmp_path, {}, lambda: made)
    assert not list(tmp_path.iterdir())
    assert cached(tmp_path, {}, lambda: made).tensors["x"].tolist() == [1, 1]


def test_the_cache_lies_where_the_platform_keeps_its_caches(
    folder: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ready(make(cache_dir=None))
    assert list((tmp_path / "xdg" / "lightning_adls").iterdir())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ready(make(cache_dir=None))
    assert list((tmp_path / "home" / ".cache" / "lightning_adls").iterdir())


# How a Trainer runs on it


class Recorder(L.LightningModule):
    """Learns nothing, and remembers the batches of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[tuple[str, int], list[list[list[int]]]] = {}

    def _record(self, stage: str, batch: Batch) -> None:
        rows = batch["input_ids"].tolist()
        self.seen.setdefault((stage, self.current_epoch), []).append(rows)

    def training_step(self, batch: Batch) -> Tensor:
        self._record("train", batch)
        return self.weight * 0

    def validation_step(self, batch: Batch) -> None:
        self._record("val", batch)

    def predict_step(self, batch: Batch) -> Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(tmp_path: Path, **arguments: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**(defaults | arguments))


def expected(data: TextData, epoch: int) -> list[list[list[int]]]:
    """The training batches of an epoch, without a Trainer."""
    loader = TextData(**dict(data.hparams) | {"num_workers": 0})
    loader.setup("fit")
    batches = loader.train_dataloader()
    assert isinstance(batches.sampler, LengthBatches)
    batches.sampler.set_epoch(epoch)
    return [batch["input_ids"].tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_gets_the_batches_of_each_epoch(
    workers: int, folder: Path, make: Make, tmp_path: Path
) -> None:
    data, module = make(batch_size=8, num_workers=workers), Recorder()
    trainer(tmp_path).fit(module, datamodule=data)
    first, second = (module.seen["train", epoch] for epoch in (0, 1))
    assert first == expected(data, 0) != second
    assert second == expected(data, 1)
    assert module.seen["val", 0] == module.seen["val", 1]


def test_calibration_batches_are_the_first_of_training_whatever_was_trained_before(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    data = ready(make(batch_size=8))
    fresh = [batch["input_ids"].tolist() for batch in data.calibration_batches(3)]
    assert fresh == expected(data, 0)[:3]
    for arguments in ({"max_epochs": 3}, {"max_steps": 4}, {"overfit_batches": 1}):
        trainer(tmp_path, **arguments).fit(Recorder(), datamodule=data)
        batches = data.calibration_batches(3)
        assert [batch["input_ids"].tolist() for batch in batches] == fresh
        assert set(batches[0]) == {"input_ids", "attention_mask", "labels"}
    everything = data.calibration_batches(1000)
    assert [batch["input_ids"].tolist() for batch in everything] == expected(data, 0)


def test_calibration_batches_need_rows_and_a_number(folder: Path, make: Make) -> None:
    with pytest.raises(RuntimeError, match="the train rows are not loaded; call prepare_data"):
        make().calibration_batches(1)
    for count in (0, -1):
        with pytest.raises(InputValueError, match=f"TextData: count={count} is below 1"):
            ready(make()).calibration_batches(count)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_continues_with_the_next_epoch(
    workers: int, folder: Path, make: Make, tmp_path: Path
) -> None:
    data = make(batch_size=8, num_workers=workers)
    before = trainer(tmp_path, max_epochs=1)
    before.fit(Recorder(), datamodule=data)
    before.save_checkpoint(tmp_path / "last.ckpt")
    module = Recorder()
    trainer(tmp_path).fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert module.seen["train", 1] == expected(data, 1)


def test_a_checkpoint_with_the_data_loads_with_weights_only(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    data, run = make(), trainer(tmp_path, max_epochs=1)
    run.fit(Recorder(), datamodule=data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["dataset"] == data.dataset


def test_overfitting_repeats_the_same_full_batches(
    folder: Path, make: Make, tmp_path: Path
) -> None:
    module = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer(tmp_path, overfit_batches=2).fit(module, datamodule=make(batch_size=8))
    assert module.seen["train", 0] == module.seen["train", 1]
    assert [len(batch) for batch in module.seen["train", 0]] == [8, 8]


def test_prediction_meets_every_row_once(folder: Path, make: Make, tmp_path: Path) -> None:
    found = trainer(tmp_path).predict(Recorder(), datamodule=make(eval_batch_size=3))
    assert found is not None
    assert sorted(torch.cat(found).tolist()) == list(range(20))  # type: ignore[arg-type]
