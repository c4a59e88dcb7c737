"""The examples of the user guide run as they stand."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "callbacks.md"


def test_the_examples_of_the_callbacks_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, groups, second = _examples(PAGE)
    page: dict[str, object] = {"__name__": "page"}
    exec(compile(first, PAGE.name, "exec"), page)
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "MXInt(width=6, block_size=32)" in printed
    from lightning_adls.transforms.cost import sparsity_of

    module = page["module"]
    assert sparsity_of(module) == pytest.approx(0.8, abs=1e-3)  # type: ignore[arg-type]
    exec(compile(groups, PAGE.name, "exec"), page)
    decayed, *others = page["optimizer"].param_groups  # type: ignore[attr-defined]
    assert decayed["weight_decay"] == 0.01
    assert all(group["weight_decay"] == 0 for group in others)
    exec(compile(second, PAGE.name, "exec"), page)
    assert "frac_width" in (tmp_path / "recipe.yaml").read_text()


def test_the_example_of_statistics_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _examples(DOCS / "statistics.md")
    exec(compile(example, "statistics.md", "exec"), {})
    printed = capsys.readouterr().out
    # Four rows that all went one way: 2 of 16 tosses of a coin.
    assert printed.startswith("0.125 Interval(low=")
    assert "Flips(changed=2, right_to_wrong=1, wrong_to_right=1, rows=3)" in printed


@pytest.mark.long
def test_the_example_of_lab_4_measures_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _examples(DOCS / "labs" / "lab4.md")
    page: dict[str, Any] = {}
    exec(compile(example, "lab4.md", "exec"), page)
    assert [row["variant"] for row in page["rows"]] == [
        "eager float32",
        "compiled aot_eager float32",
    ]
    assert all(row["training"] and row["error"] is None for row in page["rows"])
    assert page["rows"][1]["max_relative_error"] < 1e-3
    assert capsys.readouterr().out


def test_the_example_of_lab_3_in_mase_shows_its_faults(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = _examples(DOCS / "labs" / "lab3_mase.md")
    exec(compile(example, "lab3_mase.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    shares = [float(re.search(r"zeros +([\d.]+)%", line)[1]) for line in lines]  # type: ignore[index]
    standard, mase = shares[::2], shares[1::2]
    assert standard[0] == 0
    assert mase[0] > 90, "the inverted bias of BlockMinifloat"
    assert standard[2] > 90
    assert mase[2] == 0, "Log has no zero"


@pytest.mark.long
def test_the_lab_of_the_page_on_adding_things_runs_and_continues(
    run: Callable[..., int], cache_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "adding.md"
    (script,) = _examples(page)
    *_, config = _examples(page, "yaml")
    for name, text in {
        "scripts/lab5_observers.py": script,
        "configs/lab5_observers.yaml": config,
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    small = ["--data.limit_train=256", "--data.limit_val=64", f"--data.cache_dir={cache_dir}"]
    path = tmp_path / "scripts" / "lab5_observers.py"
    assert run(path, *small, "--widths=[8]") == 0
    (checkpoint,) = tmp_path.glob("lightning_logs/lab5/default/checkpoints/ptq*")
    assert f"tested once: ptq/{checkpoint.stem.split('_')[1]}/8" in capsys.readouterr().out
    assert run(path, *small, "--widths=[8, 4]") == 0
    assert run(path, *small, "--widths=[1]") == 2
    assert "width=1 is not in 2..32" in capsys.readouterr().err


SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
]


def test_the_networks_of_the_models_page_are_trained(
    run: Callable[..., int],
    cache_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = DOCS / "models.md"
    (own,) = _examples(page)
    (tmp_path / "networks.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    _, by_sizes = _examples(page, "yaml")  # the first is on the hub
    (tmp_path / "network.yaml").write_text(by_sizes)
    train = DOCS.parent / "scripts" / "train.py"
    for network in (["network.yaml"], ["networks.BagOfWords", "--model.model.width=64"]):
        arguments = ["fit", "--model.model", *network, *SMALL, f"--data.cache_dir={cache_dir}"]
        assert run(train, *arguments) == 0
    sizes = [
        torch.load(path, weights_only=True)["state_dict"][name].shape[1]
        for path, name in zip(
            sorted(tmp_path.glob("lightning_logs/train/version_*/checkpoints/best.ckpt")),
            ("model.distilbert.embeddings.word_embeddings.weight", "model.words.weight"),
            strict=True,
        )
    ]
    assert sizes == [32, 64]


@pytest.mark.long
def test_the_example_from_training_to_handing_on_goes_on_and_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    review, hand_on = _examples(DOCS / "reuse.md")
    for epochs in (1, 2):  # the second goes on
        small = review.replace("max_epochs=6", f"max_epochs={epochs}").replace("2048", "512")
        (tmp_path / "review.py").write_text(small)
        runpy.run_path("review.py", run_name="__main__")
    assert re.findall(r"^step \d+", capsys.readouterr().out, re.M) == ["step 16", "step 32"]
    runpy.run_path(_written(tmp_path / "hand_on.py", hand_on), run_name="__main__")
    printed = capsys.readouterr().out
    assert "weight=LearnedInteger(width=4)" in printed
    assert "4.01 bits per weight" in printed
    from transformers import DistilBertForSequenceClassification

    from lightning_adls.layers import QuantizedLayer

    plain = DistilBertForSequenceClassification.from_pretrained("plain")
    assert not any(isinstance(layer, QuantizedLayer) for layer in plain.modules())
    assert (plain.pre_classifier.weight == 0).float().mean() >= 0.5
    sys.modules.pop("review")


@pytest.mark.long
def test_the_examples_of_the_page_on_budgets_plan_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_adls.transforms import Quantize, costs

    monkeypatch.chdir(tmp_path)
    module, convolutional, _ = _examples(DOCS / "budget.md")
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(module, "budget.md", "exec"), page)
    printed = capsys.readouterr().out
    predicted = [float(x) for x in re.findall(r"^predicted loss (\S+)", printed, re.M)]
    assert len(predicted) == 3
    assert predicted == sorted(predicted, reverse=True)
    assert re.search(r"^predicted \S+, measured \S+ \+- ", printed, re.M)
    assert page["best"].cost <= 4
    assert costs(page["module"])["bits_per_weight"] == page["best"].cost
    assert Quantize.load("recipe.yaml") == page["best"].recipe
    page = {}
    exec(compile(convolutional, "budget.md", "exec"), page)
    assert costs(page["net"])["size_mb"] == pytest.approx(page["found"].cost)
    assert type(page["net"][0]) is torch.nn.Conv2d
    assert page["net"][7].formats == page["net"][9].formats
    assert Path("weights.png").stat().st_size > 0


@pytest.mark.long
def test_the_example_of_one_training_for_all_recipes_searches_and_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = _examples(DOCS / "budget.md")[2].replace("trials=20", "trials=6")
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, "budget.md", "exec"), page)
    assert len(page["search"].counted) == 6
    assert "after training on alone" in capsys.readouterr().out
    assert page["finished"].value > 0.5
    assert page["low"].net[0].formats.weight.width == 2


@pytest.mark.long
def test_the_example_of_distillation_goes_down_to_one_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = _examples(DOCS / "distillation.md")
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, "distillation.md", "exec"), page)
    printed = capsys.readouterr().out
    (accuracy,) = re.findall(r"accuracy\D+([\d.]+)", printed)
    assert float(accuracy) > 0.9, "a guess has a half"
    for layer in (page["module"].net[0], page["module"].net[2]):
        assert (layer.rounded_weight().abs().std(1) == 0).all()
        assert "ElasticBinary" in str(layer.formats.input)


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def _examples(page: Path, language: str = "python") -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return [code for code in found if not code.startswith("# Not run by the tests: ")]
