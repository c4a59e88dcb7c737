"""Texts as users have them: any kind of string, encoding and folder, repeated or unlabelled."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.data.columns import Table, text_column
from lightning_adls.data.division import divide
from lightning_adls.data.tokens import Encoder
from lightning_adls.errors import InputValueError
from lightning_adls.models import bert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", *map(str, range(60))]
TEXTS = [f"good film {i}" for i in range(60)]
LABELS = [i % 2 for i in range(60)]
ROWS = {"text": TEXTS, "label": LABELS}


def tokenizer_of(
    model: Any, split: Any, *, around: bool, special: str = "[PAD] [CLS] [SEP] [MASK]"
) -> PreTrainedTokenizerFast:
    made = Tokenizer(model)
    made.pre_tokenizer = split
    if around:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    pad, cls, sep, mask = special.split()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token=pad,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
    )


def words(split: Any, *, around: bool = True) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    return tokenizer_of(models.WordLevel(vocabulary, unk_token="[UNK]"), split, around=around)


@pytest.fixture(scope="module", params=["CLS and SEP around", "nothing around"])
def any_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    around = request.param == "CLS and SEP around"
    words(pre_tokenizers.Whitespace(), around=around).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    words(pre_tokenizers.Whitespace()).save_pretrained(folder)
    return folder


Make = Callable[..., TextData]


@pytest.fixture
def make(tokenizer: str, tmp_path: Path) -> Make:
    """A TextData of a file or folder in ``tmp_path``, set up for some stages."""

    def make(name: str, *stages: str, **arguments: Any) -> TextData:
        arguments = {"tokenizer": tokenizer, "cache_dir": str(tmp_path / "cache")} | arguments
        data = TextData(str(tmp_path / name), **arguments)
        for stage in stages or ("fit",):
            data.setup(stage)
        return data

    return make


def tokens_of(data: TextData) -> list[list[int]]:
    """The tokens of all rows to train on, sorted, without padding."""
    loader = data.train_dataloader()
    return sorted(
        ids[mask.bool()].tolist()
        for batch in loader
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    )


# Strings


def as_dictionary(texts: Any) -> Any:
    return pa.array(texts).dictionary_encode()


def as_dictionary_of_views(texts: Any) -> Any:
    encoded = as_dictionary(texts)
    return pa.DictionaryArray.from_arrays(
        encoded.indices, encoded.dictionary.cast(pa.string_view())
    )


STRINGS: dict[str, Callable[[Any], Any]] = {
    "string": pa.array,
    "large_string": lambda texts: pa.array(texts, pa.large_string()),
    "string_view": lambda texts: pa.array(texts).cast(pa.string_view()),
    "dictionary": as_dictionary,
    "dictionary of large_string": lambda t: pa.array(t, pa.large_string()).dictionary_encode(),
    "dictionary of string_view": as_dictionary_of_views,
    "runs": lambda texts: pc.run_end_encode(pa.array(texts)),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_strings_of_every_kind_of_arrow_are_texts(kind: str) -> None:
    read = text_column(Table(pa.table({"text": STRINGS[kind](TEXTS)}), "here"), "text")
    assert read.to_pylist() == TEXTS


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_texts_and_labels_are_read_whatever_strings_a_parquet_file_holds(
    kind: str, make: Make, tmp_path: Path
) -> None:
    names = ["no" if label else "yes" for label in LABELS]
    pa.parquet.write_table(pa.table({"text": TEXTS, "label": names}), tmp_path / "plain.parquet")
    table = pa.table({"text": STRINGS[kind](TEXTS), "label": STRINGS[kind](names)})
    pa.parquet.write_table(table, tmp_path / "other.parquet")
    plain, other = make("plain.parquet"), make("other.parquet")
    assert tokens_of(plain) == tokens_of(other)
    assert other.class_names == ["no", "yes"]


def test_parts_of_a_split_may_differ_in_their_kind_of_strings(make: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part, kind in enumerate(("string", "dictionary", "large_string", "string_view")):
        rows = {"text": STRINGS[kind](TEXTS[15 * part :][:15]), "label": LABELS[15 * part :][:15]}
        pa.parquet.write_table(pa.table(rows), tmp_path / "data" / f"train-{part}-of-4.parquet")
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "data" / "test.parquet")
    assert len(tokens_of(make("data"))) == 54


def test_blanks_around_labels_do_not_count(make: Make, tmp_path: Path) -> None:
    labels = [(" no", "no ", "yes", "\tyes\u00a0")[i % 4] for i in range(60)]
    rows = "".join(f"{text},{label}\n" for text, label in zip(TEXTS, labels, strict=True))
    (tmp_path / "x.csv").write_text("text,label\n" + rows)
    assert make("x.csv").class_names == ["no", "yes"]
    (tmp_path / "y.csv").write_text("text,label\n" + rows.replace(" no", "  "))
    with pytest.raises(InputValueError, match="label='label' is missing in row 0"):
        make("y.csv")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("twice", ["text", "label"])
def test_two_columns_of_one_name_are_refused(
    suffix: str, twice: str, make: Make, tmp_path: Path
) -> None:
    columns = [pa.array(TEXTS), pa.array(LABELS), pa.array(ROWS[twice])]
    table = pa.Table.from_arrays(columns, names=["text", "label", twice])
    if suffix == "csv":
        pa.csv.write_csv(table, tmp_path / "x.csv")
    else:
        pa.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputValueError, match=rf"{twice}='{twice}' is the name of 2 columns of"):
        make(f"x.{suffix}")


# Encodings

CSV = "text,label\n" + "".join(f"café {i},{i % 2}\n" for i in range(40))
JSONL = "".join(f'{{"text": "café {i}", "label": {i % 2}}}\n' for i in range(40))


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("latin-1", "latin-1"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
    ],
)
@pytest.mark.parametrize(("name", "content"), [("x.csv", CSV), ("x.jsonl", JSONL)])
def test_another_encoding_than_utf8_is_named_and_read_if_given(
    written: str, named: str, name: str, content: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode(written))
    with pytest.raises(InputValueError, match=f"is not in encoding='utf-8'.*'{named}'"):
        make(name)
    (tmp_path / f"utf8{name}").write_bytes(content.encode())
    assert tokens_of(make(name, encoding=written)) == tokens_of(make(f"utf8{name}"))


def test_utf16_without_a_letter_beyond_ascii_is_seen(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(CSV.replace("é", "e").encode("utf-16-le"))
    for encoding in ("utf-8", "latin-1"):
        with pytest.raises(InputValueError, match=f"encoding='{encoding}'.*such as 'utf-16-le'"):
            make("x.csv", encoding=encoding)


def test_a_byte_order_mark_is_no_part_of_a_name(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(CSV.encode("utf-8-sig"))
    assert make("x.csv").num_classes == 2


def test_a_tree_of_texts_has_an_encoding_too(make: Make, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            for i in range(10):
                path = tmp_path / "data" / split / label / f"{i}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"café {i}", encoding="latin-1")
    with pytest.raises(InputValueError, match=r"neg/0.txt' is not in encoding='utf-8'"):
        make("data")
    assert make("data", encoding="latin-1").class_names == ["neg", "pos"]


def test_an_encoding_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputValueError, match="encoding='utf-99' is none that Python knows"):
        TextData(encoding="utf-99")


def test_strings_of_a_parquet_file_that_are_not_in_utf8_are_refused() -> None:
    data = pa.array([0, 4], pa.int32()).buffers()[1]
    broken = pa.StringArray.from_buffers(1, data, pa.py_buffer(b"caf\xe9"))
    with pytest.raises(InputValueError, match="text='text' of here is damaged or not in UTF-8"):
        text_column(Table(pa.table({"text": broken}), "here"), "text")


# Folders of datasets


@pytest.fixture
def quiet_datasets() -> None:
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("quiet_datasets")
def test_a_folder_of_save_to_disk_is_read(make: Make, tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    one = datasets.Dataset.from_dict(ROWS, features=features)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select(range(20))}).save_to_disk(
        tmp_path / "more"
    )
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "same.parquet")
    single = make("one")
    assert tokens_of(single) == tokens_of(make("same.parquet"))
    assert single.class_names == ["no", "yes"]
    assert len(tokens_of(make("more"))) == 54
    assert len(make("more", "test").test_dataloader().dataset) == 20  # type: ignore[arg-type]


@pytest.mark.usefixtures("quiet_datasets")
def test_a_folder_of_save_to_disk_that_cannot_be_used_says_what_it_is(
    make: Make, tmp_path: Path
) -> None:
    one = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "train only")
    with pytest.raises(InputValueError, match=r"it has \['train'\]; it is a folder of save_to_d"):
        make("train only")
    assert make("train only/train").num_classes == 2
    (tmp_path / "train only" / "train" / "state.json").write_text("{")
    with pytest.raises(InputValueError, match=r"looks like a folder of save_to_disk\(\) but"):
        make("train only")


# Texts without tokens, and special tokens in texts


@pytest.mark.parametrize("empty", ["", "  "])
def test_texts_without_a_token_are_rows_that_a_network_can_be_trained_on(
    empty: str, any_tokenizer: str, make: Make, tmp_path: Path, trainer: L.Trainer
) -> None:
    rows = {"text": ["good"] * 20 + [empty] * 60, "label": [0, 1] * 40}
    pa.parquet.write_table(pa.table(rows), tmp_path / "x.parquet")
    data = make("x.parquet", tokenizer=any_tokenizer, batch_size=8)
    for batch in data.train_dataloader():
        assert batch["attention_mask"].any(1).all()
    module = TextClassifier(small_bert())
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["train/loss"].isfinite()


NAMES = "good [PAD] film [SEP] [MASK]"


@pytest.mark.parametrize("split", [pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()])
def test_names_of_special_tokens_in_a_text_are_text(split: Any) -> None:
    ids = Encoder(words(split)).encode([NAMES], "")["ids"].tolist()
    assert not {0, 2, 3, 4} & set(ids)
    assert 1 in ids
    asked = Encoder(words(split), special_tokens=True).encode([NAMES], "")["ids"].tolist()
    assert asked == [5, 0, 6, 3, 4]


def test_names_that_a_vocabulary_has_as_pieces_are_text() -> None:
    special = ["<pad>", "[UNK]", "<s>", "</s>", "<mask>"]
    letters = "▁<>/[]adgks"
    pieces = [(name, 0.0) for name in special] + [(letter, -2.0) for letter in letters]
    made = tokenizer_of(
        models.Unigram(pieces, unk_id=1),
        pre_tokenizers.Metaspace(),
        around=False,
        special="<pad> <s> </s> <mask>",
    )
    ids = Encoder(made).encode(["a <pad> </s>a", "a"], "")["ids"].tolist()
    assert not {0, 2, 3, 4} & set(ids)


def test_the_option_for_special_tokens_is_part_of_what_is_kept(make: Make, tmp_path: Path) -> None:
    pa.parquet.write_table(
        pa.table({"text": [NAMES] * 60, "label": LABELS}), tmp_path / "x.parquet"
    )
    text, tokens = (tokens_of(make("x.parquet", special_tokens=on)) for on in (False, True))
    assert text[0] == tokens_of(make("x.parquet"))[0] != tokens[0]


# Texts without labels


def predicted(make: Make, name: str, **arguments: Any) -> tuple[list[int], list[int]]:
    batches = list(make(name, "predict", **arguments).predict_dataloader())
    index = torch.cat([batch["index"] for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    return index.sort().values.tolist(), labels[index.argsort()].tolist()


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (None, [-1] * 20),
        (pa.nulls(20), [-1] * 20),
        ([-1] * 20, [-1] * 20),
        ([None, 1] * 10, [-1, 1] * 10),
        ([0, 1] * 10, [0, 1] * 10),
    ],
    ids=["no column", "nulls", "-1", "some", "all"],
)
def test_texts_to_predict_need_no_labels(
    column: Any, labels: list[int], make: Make, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "data" / "train.parquet")
    rows = {"text": TEXTS[:20]} | ({} if column is None else {"label": column})
    pa.parquet.write_table(pa.table(rows), tmp_path / "data" / "test.parquet")
    assert predicted(make, "data") == (list(range(20)), labels)
    if -1 in labels:
        with pytest.raises(InputValueError, match=r"label='label' (is no column|is missing|of )"):
            make("data", "test")


def test_a_label_that_train_lacks_is_refused_in_prediction_too(make: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "data" / "train.parquet")
    pa.parquet.write_table(
        pa.table({"text": TEXTS, "label": [7] * 60}), tmp_path / "data" / "test.parquet"
    )
    with pytest.raises(InputValueError, match=r"has \[7\], outside 0..1"):
        make("data", "predict")


@pytest.mark.parametrize("name", ["data", "data/test.parquet"])
def test_without_labels_to_train_on_all_texts_are_predicted(
    name: str, make: Make, tmp_path: Path, trainer: L.Trainer
) -> None:
    (tmp_path / "data").mkdir()
    pa.parquet.write_table(pa.table({"text": TEXTS[:20]}), tmp_path / "data" / "test.parquet")
    assert predicted(make, name) == (list(range(20)), [-1] * 20)
    assert len(predicted(make, name, limit_test=5)[0]) == 5
    data = make(name, "predict", cache_dir=str(tmp_path / "another"))
    batches: Any = trainer.predict(TextClassifier(small_bert()), datamodule=data)
    assert sum(len(batch["class"]) for batch in batches) == 20
    with pytest.raises(InputValueError, match=r"no split 'train'|is no column"):
        make(name)


# Repeated texts


def test_rows_to_validate_on_that_repeat_a_text_are_counted_and_kept_together_if_asked(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [TEXTS[i // 3] for i in range(60)]
    pa.parquet.write_table(pa.table({"text": texts, "label": LABELS}), tmp_path / "x.parquet")
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "once.parquet")
    caplog.set_level("INFO", logger="lightning_adls")
    assert make("once.parquet", val_fraction=0.2).repeated_rows == 0
    assert not caplog.text
    assert make("x.parquet", val_fraction=0.2).repeated_rows > 0
    assert re.search(r"[1-9]\d* rows to validate on repeat a text", caplog.text)
    data = make("x.parquet", "fit", "test", val_fraction=0.2, keep_repeats_together=True)
    assert data.repeated_rows == 0
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    parts = [
        [tuple(row.tolist()) for batch in loader for row in batch["input_ids"]]
        for loader in loaders
    ]
    assert [len(part) for part in parts] == [39, 9, 12]
    assert sum(len(set(part)) for part in parts) == 20


def test_a_text_that_fills_more_than_a_part_is_trained_on() -> None:
    same = torch.tensor([0] * 30 + list(range(1, 31)))
    labels = torch.arange(60) % 2
    parts = divide(labels, 0.1, seed=3, with_test=True, same=same)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 49, "val": 5, "test": 6}
    assert set(range(30)) <= set(parts["train"].tolist())


def test_one_text_alone_cannot_be_kept_together(make: Make, tmp_path: Path) -> None:
    rows = {"text": ["good film"] * 60, "label": LABELS}
    pa.parquet.write_table(pa.table(rows), tmp_path / "x.parquet")
    with pytest.raises(InputValueError, match="leaves none of the 60 rows to validate on"):
        make("x.parquet", keep_repeats_together=True)


# More classes than outputs


def small_bert(num_classes: int = 2) -> nn.Module:
    return bert(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=256,
        num_classes=num_classes,
    )


def twelve(path: Path) -> None:
    rows = {"text": TEXTS, "label": [i % 12 for i in range(60)]}
    pa.parquet.write_table(pa.table(rows), path)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_data_of_more_classes_than_outputs_are_refused(
    stage: str, make: Make, tmp_path: Path, trainer: L.Trainer
) -> None:
    twelve(tmp_path / "x.parquet")
    data = make("x.parquet")
    with pytest.raises(InputValueError, match="num_classes=2 is below the 12 classes of the data"):
        getattr(trainer, stage)(TextClassifier(small_bert()), datamodule=data)
    # Loaders by hand do not know how many classes there are, but their labels do.
    loader = {"fit": data.train_dataloader, "validate": data.val_dataloader}.get(
        stage, data.val_dataloader
    )()
    with pytest.raises(InputValueError, match=r"num_classes=2 is below the \d+ classes"):
        getattr(trainer, stage)(TextClassifier(small_bert()), loader)


def test_a_network_of_other_outputs_than_the_module_was_told_is_refused(
    make: Make, tmp_path: Path, trainer: L.Trainer
) -> None:
    twelve(tmp_path / "x.parquet")
    module = TextClassifier(small_bert(3), num_classes=12)
    with pytest.raises(InputValueError, match=r"num_classes=12 is not .* outputs of the model, 3"):
        trainer.fit(module, datamodule=make("x.parquet"))


def test_a_label_below_0_is_refused(make: Make, tmp_path: Path, trainer: L.Trainer) -> None:
    pa.parquet.write_table(pa.table(ROWS), tmp_path / "x.parquet")
    good = make("x.parquet").val_dataloader()
    batches: Any = [batch | {"labels": batch["labels"] - 1} for batch in good]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    with pytest.raises(InputValueError, match="labels=-1 is no class"):
        trainer.validate(TextClassifier(small_bert()), loader)
