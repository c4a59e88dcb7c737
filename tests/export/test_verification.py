"""What is said of an export is what two models say of the rows, counted by other means."""

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError, MissingFileError, MissingPackageError
from lightning_adls.export import compressed_tensors, lower, onnx, program, save, verify
from lightning_adls.formats import NumberFormat
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

Batch = dict[str, Tensor]


class Net(nn.Module):
    """A classifier of three classes, from features called ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(40, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(x).relu())
        return logits


def batches(rows: tuple[int, ...] = (7, 1, 12)) -> list[Batch]:
    drawn = torch.Generator().manual_seed(0)
    return [
        {
            "x": torch.randn(n, 40, generator=drawn),
            "labels": torch.randint(3, (n,), generator=drawn),
            "index": torch.arange(n),
        }
        for n in rows
    ]


@pytest.fixture(scope="module")
def network(cache_dir: str) -> tuple[TextClassifier, TextData]:
    """A BERT of one layer in 8-bit integers, and the data that it reads."""
    torch.manual_seed(0)
    data = TextData(max_length=24, limit_train=96, limit_val=80, cache_dir=cache_dir)
    data.setup("fit")
    model = bert(
        vocab_size=data.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    return TextClassifier(model, [Quantize({"*": "Integer(width=8, frac_width=6)"})]), data


@pytest.mark.parametrize("text", [str(text) for text in NumberFormat.classes])
def test_what_was_packed_is_the_model(text: str, tmp_path: Path) -> None:
    model = Net()
    Quantize({"*": text})(model)
    model.train()(batches()[0]["x"])  # which fits scales that are learned
    save(model, tmp_path / "a.safetensors")
    found = verify(model, {"packed": tmp_path / "a.safetensors"}, batches()).compared["packed"]
    assert (found.largest_difference, found.flips.changed, found.p_value) == (0, 0, 1)
    assert found.bytes == (tmp_path / "a.safetensors").stat().st_size
    assert model.training, "the mode stays"


def test_numbers_are_those_of_two_models_counted_by_hand() -> None:
    torch.manual_seed(1)
    first, second = Net(), Net()
    data = batches((50, 30))
    with torch.no_grad():
        logits = [[model(batch["x"]) for batch in data] for model in (first, second)]
    difference = max(float((a - b).abs().max()) for a, b in zip(*logits, strict=True))
    labels = torch.cat([batch["labels"] for batch in data])
    answers = [torch.cat(found).argmax(1) for found in logits]
    right = [answer == labels for answer in answers]
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    n, fewer = gained + lost, min(gained, lost)
    p_value = min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)

    found = verify(first, {"other": second}, data, name="first")
    model, other = found.rows()
    assert other["largest_difference"] == pytest.approx(difference, rel=1e-6)
    assert other["flips"] == int((answers[0] != answers[1]).sum())
    assert (other["right_to_wrong"], other["wrong_to_right"]) == (lost, gained)
    assert other["p_value"] == pytest.approx(p_value)
    for row, each in ((model, right[0]), (other, right[1])):
        share = float(each.float().mean())
        assert row["accuracy"] == pytest.approx(share)
        assert row["standard_error"] == pytest.approx((share * (1 - share) / 80) ** 0.5)
        assert row["rows"] == 80
        assert row["bytes"] == 4 * (40 * 64 + 64 + 64 * 3 + 3)
    assert model["target"] == "first"
    assert model["flips"] is None
    assert "first: accuracy" in str(found)
    assert f"{other['flips']} flips" in str(found)


def test_batches_are_asked_one_after_the_other() -> None:
    model, here = Net(), list[int]()

    def stream() -> Iterator[Batch]:
        for n, batch in enumerate(batches()):
            here.append(n)
            yield batch

    def asked(batch: Any) -> Tensor:
        assert set(batch) == {"x"}, "no labels"
        assert len(here) == len(seen) + 1
        seen.append(here[-1])
        logits: Tensor = model(batch["x"])
        return logits

    seen: list[int] = []
    found = verify(model, {"function": asked}, stream())
    assert seen == [0, 1, 2]
    assert found.rows()[1]["bytes"] is None


def test_a_text_classifier_and_its_network_are_the_same_by_any_dataloader(
    network: tuple[TextClassifier, TextData],
) -> None:
    classifier, data = network
    loader = data.val_dataloader()
    assert isinstance(loader, DataLoader)
    found = verify(classifier, {"network": classifier.model}, loader)
    assert found.row_count == 80
    assert found.compared["network"].largest_difference == 0


@pytest.mark.long
def test_every_export_is_run_by_its_own_engine(
    network: tuple[TextClassifier, TextData], tmp_path: Path
) -> None:
    classifier, data = network
    targets: dict[str, Any] = {
        "onnx": onnx(classifier, tmp_path / "a.onnx"),
        "program": program(classifier, tmp_path / "a.pt2"),
        "folder": compressed_tensors(classifier, tmp_path / "folder"),
        "lowered": lower(classifier),
    }
    found = verify(classifier, targets, data.val_dataloader())
    for name, each in found.compared.items():
        assert each.largest_difference < 1e-5, name
        assert each.flips.changed == 0
    for name in ("onnx", "program"):
        assert found.compared[name].bytes == targets[name].stat().st_size


def test_a_folder_is_loaded_by_transformers(
    network: tuple[TextClassifier, TextData], tmp_path: Path
) -> None:
    _, data = network
    torch.manual_seed(0)
    model: Any = bert(vocab_size=data.vocab_size, hidden_size=16, num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    found = verify(model, {"folder": tmp_path}, data.val_dataloader()).compared["folder"]
    assert found.largest_difference == 0
    files = [tmp_path / "config.json", tmp_path / "model.safetensors"]
    assert found.bytes == sum(file.stat().st_size for file in files)


NAN = torch.tensor([float("nan"), 0.0, 0.0])
REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "nothing": ({}, batches(), "against is empty"),
    "no batches": ({"a": Net()}, [], "data has no batches"),
    "no rows": ({"a": Net()}, batches((0,)), "data has no rows"),
    "no labels": ({"a": Net()}, [{"x": torch.ones(2, 40)}], "without 'labels'"),
    "tuples": ({"a": Net()}, [(torch.ones(2, 40), torch.ones(2))], "without 'labels'"),
    "NaN": ({"a": lambda b: b["x"][:, :3] + NAN}, batches(), "'a' gives logits that are NaN"),
    "classes": ({"a": lambda b: b["x"][:, :2]}, batches(), "'a' has 2 classes and the model 3"),
    "tokens": ({"a": lambda b: b["x"][None]}, batches(), r"of shape \(1, 7, 40\) for 7 rows"),
    "names": ({"a": nn.Linear(40, 3)}, batches(), "'a': a Linear takes input, and batches have x"),
    "a number": ({"a": 3}, batches(), "'a' is a int; give a packed file"),
    "a suffix": ({"a": __file__}, batches(), "of no known kind; give a packed file"),
    "a folder": ({"a": Path(__file__).parent}, batches(), "holds no config.json"),
    "a label": (
        {"a": Net()},
        [{"x": torch.ones(2, 40), "labels": torch.tensor([0, -1])}],
        "labels=-1 is none of the 3 classes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused(case: str) -> None:
    against, data, said = REFUSED[case]
    with pytest.raises(InputValueError, match=f"^verify: .*{said}"):
        verify(Net(), against, data)


def test_a_file_that_is_missing_is_known_before_anything_is_asked() -> None:
    def asked(batch: Any) -> Tensor:
        raise AssertionError("too late")

    with pytest.raises(MissingFileError, match="'b': there is no file 'missing"):
        verify(Net(), {"a": asked, "b": "missing.onnx"}, batches())


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_a_file_of_something_else_is_refused_by_its_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"something else" * 9)
    with pytest.raises(InputValueError, match=f"a{suffix}'") as caught:
        verify(Net(), {"a": path}, batches())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "name"), [("onnxruntime", "a.onnx"), ("compressed_tensors", "folder")]
)
def test_an_engine_that_is_not_installed_is_named(
    package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "a.onnx").touch()
    found: Callable[..., Any] = PathFinder.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name.startswith(package) else found(name, *rest)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find)])
    with pytest.raises(MissingPackageError, match=f"needs {package}, which is not installed"):
        verify(Net(), {"a": tmp_path / name}, batches())
