"""TextData over files: reading, splitting, batching, refusing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls import reviews
from lightning_adls.batching import LengthBatches, balanced_order
from lightning_adls.data import TextData

Make = Callable[..., TextData]
ROOT = Path(__file__).parent.parent


def frame(rows: int, seed: int = 0) -> pd.DataFrame:
    words = ["good", "bad", "film", "plot", "music"]
    texts = [" ".join(words[: 1 + (n + seed) % 5] * (1 + n % 4)) + f" {n}" for n in range(rows)]
    return pd.DataFrame({"text": texts, "label": [n % 2 for n in range(rows)]})


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A folder with a BERT vocabulary, which is what a checkpoint's tokenizer is."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "music"]
    (folder / "vocab.txt").write_text("\n".join([*words, *map(str, range(200)), "br", "<", ">"]))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def make(tmp_path: Path, tokenizer: str) -> Make:
    def make(dataset: str | Path, **options: Any) -> TextData:
        options = {"max_length": 16, "tokenizer": tokenizer, **options}
        return TextData(dataset=str(dataset), cache_dir=str(tmp_path / "cache"), **options)

    return make


def folder(path: Path, train: pd.DataFrame | None = None, test: pd.DataFrame | None = None) -> Path:
    path.mkdir()
    (frame(100) if train is None else train).to_parquet(path / "train.parquet")
    (frame(30, 1) if test is None else test).to_parquet(path / "test.parquet")
    return path


def ready(data: TextData, *stages: str) -> TextData:
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


def sizes(data: TextData) -> list[int]:
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    return [sum(len(batch["labels"]) for batch in loader) for loader in loaders]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_a_folder_with_one_file_per_split_is_read(tmp_path: Path, make: Make, kind: str) -> None:
    for split, rows in (("train", 100), ("test", 30)):
        path, content = tmp_path / f"{split}.{kind}", frame(rows)
        if kind == "parquet":
            content.to_parquet(path)
        elif kind == "jsonl":
            content.to_json(path, orient="records", lines=True)
        else:
            content.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}.{kind}").rename(data / f"{split}.{kind}")
    assert sizes(ready(make(data))) == [90, 10, 30]


def test_a_single_file_is_divided_in_three(tmp_path: Path, make: Make) -> None:
    frame(100).to_csv(tmp_path / "all.csv", index=False)
    data = ready(make(tmp_path / "all.csv"))
    assert sum(sizes(data)) == 100
    assert sizes(data) == [81, 9, 10]


def test_a_tree_of_one_folder_per_class_is_read(tmp_path: Path, make: Make) -> None:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            place = tmp_path / "aclImdb" / split / label
            place.mkdir(parents=True)
            for n in range(10):
                (place / f"{n}.txt").write_text(f"good {n}<br /><br />film")
    (tmp_path / "aclImdb" / "train" / "unsup").mkdir()
    (tmp_path / "aclImdb" / "train" / "unsup" / "0.txt").write_text("bad")
    data = ready(make(tmp_path / "aclImdb", val_fraction=0.2))
    assert sizes(data) == [16, 4, 20]
    assert data.class_names == ["neg", "pos"]


def test_line_breaks_become_spaces(tmp_path: Path, make: Make) -> None:
    rows = frame(40)
    rows["text"] = "good<br />film"
    rows["text"] += [f" {n}" for n in range(40)]
    batch = next(iter(ready(make(folder(tmp_path / "data", rows))).train_dataloader()))
    assert (batch["input_ids"][:, :3] == torch.tensor([2, 5, 7])).all(), "[CLS] good film"


def test_string_labels_get_numbers_in_sorted_order(tmp_path: Path, make: Make) -> None:
    train, test = frame(90), frame(30)
    for rows in (train, test):
        rows["label"] = [("b", "c", "a")[n % 3] for n in range(len(rows))]
    data = ready(make(folder(tmp_path / "data", train, test)))
    assert data.class_names == ["a", "b", "c"]
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [("head", [5, 6, 7, 8, 5, 6]), ("tail", [7, 8, 5, 6, 7, 8]), ("head_tail", [5, 8, 5, 6, 7, 8])],
)
def test_longer_texts_keep_what_truncation_says(
    tmp_path: Path, make: Make, truncation: str, kept: list[int]
) -> None:
    rows = frame(40)
    rows["text"] = "good bad film plot good bad film plot"
    data = make(folder(tmp_path / "data", rows), max_length=8, truncation=truncation)
    batch = next(iter(ready(data).train_dataloader()))
    assert batch["input_ids"].shape[1] == 8
    assert batch["input_ids"][0].tolist() == [2, *kept, 3]


def test_batches_are_padded_to_multiples_of_eight_and_masked(tmp_path: Path, make: Make) -> None:
    for batch in ready(make(folder(tmp_path / "data"), max_length=20)).train_dataloader():
        width = batch["input_ids"].shape[1]
        assert width % 8 == 0 or width == 20
        assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == 0)


def test_validation_is_carved_from_train_stratified_and_seeded(tmp_path: Path, make: Make) -> None:
    path = folder(tmp_path / "data")

    def rows(data: TextData) -> tuple[set[int], set[int]]:
        parts = ready(data, "fit")._parts
        return set(parts["train"].index.tolist()), set(parts["val"].index.tolist())

    train, val = rows(make(path))
    assert not train & val
    assert train | val == set(range(100))
    assert sum(row % 2 for row in val) == 5
    assert rows(make(path)) == (train, val)
    assert rows(make(path, seed=1)) != (train, val)


def test_limits_keep_the_class_balance(tmp_path: Path, make: Make) -> None:
    data = make(folder(tmp_path / "data"), limit_train=20, limit_val=4, limit_test=6)
    assert sizes(ready(data)) == [20, 4, 6]
    labels = torch.cat([batch["labels"] for batch in data.train_dataloader()])
    assert labels.sum() == 10


def test_fitting_does_not_read_the_test_split(tmp_path: Path, make: Make) -> None:
    path = folder(tmp_path / "data")
    (path / "test.parquet").write_bytes(b"not a parquet file")
    data = ready(make(path), "fit")
    assert len(data.train_dataloader()) > 0
    with pytest.raises(Exception, match=r"test|parquet"):
        data.setup("test")


def test_texts_are_tokenised_once_and_again_when_they_change(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_adls.tokens import Encoder

    calls: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: Any, title: str) -> Any:
        calls.append(len(texts))
        return encode(self, texts, title)

    monkeypatch.setattr(Encoder, "encode", counted)
    path = folder(tmp_path / "data")
    ready(make(path), "fit")
    ready(make(path, max_length=12, truncation="tail"), "fit")
    assert calls == [100]
    frame(100, 3).to_parquet(path / "train.parquet")
    ready(make(path), "fit")
    assert calls == [100, 100]


def test_epochs_differ_and_repeat_with_the_seed(tmp_path: Path, make: Make) -> None:
    def order(data: TextData, epoch: int) -> list[list[int]]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [batch["input_ids"].tolist() for batch in loader]

    path = folder(tmp_path / "data")
    data, same = ready(make(path, batch_size=8)), ready(make(path, batch_size=8))
    assert order(data, 0) == order(same, 0)
    assert order(data, 1) == order(same, 1)
    assert order(data, 0) != order(data, 1)


def wrong(column: str, row: int, value: object) -> pd.DataFrame:
    rows = frame(40).astype(object)
    rows.loc[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (frame(40), {"text": "review"}, r"'review'.*text"),
        (frame(40), {"label": "stars"}, r"'stars'.*label"),
        (frame(0), {}, "empty|no rows"),
        (wrong("label", 3, -1), {}, "-1"),
        (wrong("label", 3, None), {}, "3"),
        (wrong("text", 5, None), {}, "5"),
        (frame(40).assign(text=range(40)), {}, "text"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, make: Make, train: pd.DataFrame, options: dict[str, str], message: str
) -> None:
    path = folder(tmp_path / "data", train)
    with pytest.raises(ValueError, match=f"(?s)TextData.*({message})"):
        ready(make(path, **options), "fit")


def test_a_label_that_only_the_test_split_has_is_refused_by_name(
    tmp_path: Path, make: Make
) -> None:
    train, test = frame(40), frame(30)
    train["label"] = ["no", "yes"] * 20
    test["label"] = ["no", "maybe"] * 15
    with pytest.raises(ValueError, match="maybe"):
        ready(make(folder(tmp_path / "data", train, test)), "fit", "test")


def test_a_missing_file_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        ready(make(tmp_path / "nothing.csv"), "fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 4}, "max_length=4"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit_train": 0}, "limit_train=0"),
        ({"val_fraction": 0.0}, r"val_fraction=0\.0"),
        ({"truncation": "middle"}, "truncation='middle'"),
        ({"test_split": "train"}, "test_split='train'"),
        ({"dataset": "x.csv"}, "tokenizer=None"),
        ({"tokenizer": "x"}, "tokenizer='x'"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextData(**options)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/data/*.yaml")), ids=lambda p: p.stem)
def test_every_data_config_is_accepted(path: Path) -> None:
    assert TextData(**yaml.safe_load(path.read_text())).batch_size == 32


@given(
    lengths=st.lists(st.integers(3, 60), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 4),
    shuffle=st.booleans(),
    seed=st.integers(0, 3),
)
def test_ranks_share_all_rows_in_equally_many_batches(
    lengths: list[int], batch_size: int, ranks: int, shuffle: bool, seed: int
) -> None:
    shares = [
        list(
            LengthBatches(
                torch.tensor(lengths), batch_size, shuffle=shuffle, seed=seed,
                num_replicas=ranks, rank=rank,
            )
        )
        for rank in range(ranks)
    ]  # fmt: skip
    assert len({len(batches) for batches in shares}) == 1
    rows = [row for batches in shares for batch in batches for row in batch]
    assert set(rows) == set(range(len(lengths)))
    assert len(rows) - len(lengths) < ranks, "only a remainder smaller than the ranks is repeated"
    assert all(0 < len(batch) <= batch_size for batches in shares for batch in batches)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 5))
def test_every_prefix_of_a_balanced_order_is_balanced(labels: list[int], seed: int) -> None:
    order = balanced_order(torch.tensor(labels), [seed])
    assert sorted(order.tolist()) == list(range(len(labels)))
    for value in set(labels):
        share = labels.count(value) / len(labels)
        hits = torch.tensor([labels[row] == value for row in order.tolist()]).cumsum(0)
        expected = torch.arange(1, len(labels) + 1) * share
        assert (hits - expected).abs().max() <= 2


class Tally(L.Callback):
    """Writes the rows that each rank trains on, a file per rank and epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, out: Any, batch: Any, n: int
    ) -> None:
        path = self.folder / f"epoch{trainer.current_epoch}-rank{trainer.global_rank}"
        with path.open("a") as file:
            file.writelines(f"{row}\n" for row in batch["input_ids"].tolist())


def test_lightning_shares_the_rows_among_two_processes(
    tmp_path: Path, texts: TextData, build: Any
) -> None:
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Tally(tmp_path)],
    )  # fmt: skip
    trainer.fit(build([]), datamodule=texts)
    seen = {p.name: p.read_text().splitlines() for p in tmp_path.glob("epoch*")}
    assert sorted(map(len, seen.values())) == [48] * 4, "two ranks, two epochs, 96 rows each"
    assert seen["epoch0-rank0"] != seen["epoch1-rank0"]
    first = sorted(row.replace(", 0", "") for n in "01" for row in seen[f"epoch0-rank{n}"])
    assert first == sorted(row.replace(", 0", "") for n in "01" for row in seen[f"epoch1-rank{n}"])


def test_reviews_are_seeded_balanced_and_fast_to_make(texts: TextData) -> None:
    other = ready(replace(texts), "fit")
    for mine, theirs in zip(texts.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(mine["input_ids"], theirs["input_ids"])
    labels = torch.cat([batch["labels"] for batch in texts.train_dataloader()])
    assert labels.float().mean() == 0.5
    unknown = reviews.tokenizer().token_to_id("[UNK]")
    assert all((batch["input_ids"] != unknown).all() for batch in texts.train_dataloader())
