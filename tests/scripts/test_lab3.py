"""Lab 3 as its users run it."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import made_again
import pytest
import torch
import yaml

from lightning_adls import search
from lightning_adls.labs.stored import StoredRun

ROOT = Path(__file__).parents[2]
LAB3 = ROOT / "scripts" / "lab3_mixed_precision.py"
# A BERT of one narrow layer on a few reviews.
SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
]
SMALL_LAB3 = [
    *SMALL,
    *("--model.hidden_size=16", "--model.num_hidden_layers=1", "--model.intermediate_size=32"),
    *("--finetune.epochs=1", "--finetune.reports=1", "--budget.epochs=1", "--budget.reports=2"),
    *("--run=test", "--trials=3"),
]

GRID = "lightning_adls.search.GridSampler"

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def cache(cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are tokenised once."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)


def rows(folder: Path) -> list[dict[str, str]]:
    """The trials, without their seconds and without what the best of a study alone has."""
    changing = {"seconds", "checkpoint", "test_accuracy", "test_standard_error"}
    changing |= {"on_front", "hypervolume"}  # which later trials decide too
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in r.items() if k not in changing} for r in csv.DictReader(file)]


def test_lab3_writes_all_its_results_and_a_second_call_runs_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = "--only=[Full, Integer, Mixed]"
    assert run(LAB3, *SMALL_LAB3, only) == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert [(row["study"], row["trial"]) for row in rows(folder)] == [
        ("Full", "1"),
        *(("Integer", n) for n in "123"),
        *(("Mixed", n) for n in "123"),
    ]
    assert json.loads(rows(folder)[1]["recipe"])
    content = json.loads((folder / "summary.json").read_text())
    assert 0 <= content["start"]["val_accuracy"] <= 1
    summary = content["results"]
    assert set(summary) == {"Full", "Integer", "Mixed"}
    for found in summary.values():
        assert 0 <= found["test_accuracy"] <= 1
        assert (folder / found["best_recipe"]).is_file()
        assert (folder / found["best_checkpoint"]).is_file()
    made_again.check(folder)
    for name in ("running_best.png", "task1_integer.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    runs = {str(path.parent.relative_to(folder)) for path in folder.rglob("events*")}
    numbers = {"Full": ["001"], "Integer": ["001", "002", "003"], "Mixed": ["001", "002", "003"]}
    assert runs == {
        *("overview", "trials/start"),
        *(f"overview/{name}{curve}" for name in numbers for curve in ("", "/pareto")),
        *(
            f"{name}/{kind}/{n}"
            for name in numbers
            for kind in ("trials", "hparams")
            for n in numbers[name]
        ),
    }, "one run for each study, curve and trial, and none for a study that was not run"
    with search.open_storage(folder / "search.journal") as storage:
        assert search.study_names(storage) == {"Full", "Integer", "Mixed"}, "as they start"
    printed = capsys.readouterr().out
    assert "Best of each study" in printed
    assert "Integer 3/3" in printed
    assert "7 of 7" in printed
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) == len(set(lines)), "a line is printed twice"

    created = b'"op_code":4'  # Optuna's code for a new trial
    before = (folder / "search.journal").read_bytes().count(created)
    assert before == 7
    assert run(LAB3, *SMALL_LAB3, only) == 0
    assert (folder / "search.journal").read_bytes().count(created) == before
    assert "complete already" in capsys.readouterr().out


@pytest.mark.long
def test_lab3_config_yaml_repeats_the_run(run: Run, tmp_path: Path) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=2") == 0
    logs = tmp_path / "lightning_logs" / "lab3"
    assert run(LAB3, f"--config={logs / 'test' / 'config.yaml'}", "--run=again") == 0
    assert rows(logs / "again") == rows(logs / "test")


@pytest.mark.long
def test_lab3_more_trials_continue_a_run(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=2") == 0
    first = rows(folder)
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=3") == 0
    assert rows(folder)[:2] == first
    assert len(rows(folder)) == 3


@pytest.mark.long
def test_lab3_without_training_only_evaluates(run: Run, tmp_path: Path) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--train=false") == 0
    assert len(rows(tmp_path / "lightning_logs" / "lab3" / "test")) == 3


@pytest.mark.long
def test_lab3_compares_by_the_divergence_of_one_half_and_reports_on_the_other(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*SMALL_LAB3, "--only=[Integer, MXInt]", "--train=false")
    looking = ("--monitor=val/divergence", "--report_on=half")
    assert run(LAB3, *arguments, *looking) == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    for row in rows(folder):
        accuracy, value = float(row["val_accuracy"]), float(row["value"])
        error = (accuracy * (1 - accuracy) / 32) ** 0.5
        assert float(row["val_standard_error"]) == pytest.approx(error, abs=1e-6)
        assert value >= 0
        assert 0 <= int(row["flips"]) <= 32
        assert row["running_best_standard_error"] == "", "a divergence is no accuracy"
    summary = json.loads((folder / "summary.json").read_text())
    for name, found in summary["results"].items():
        own = [row for row in rows(folder) if row["study"] == name]
        best = min(own, key=lambda row: float(row["value"]))
        assert found["best_trial"] == int(best["trial"])
        assert found["val_accuracy"] == float(best["val_accuracy"])
        assert found["flips"] == int(best["flips"]), "of the rows that are reported on"
    assert summary["best"]["best"] in summary["results"]
    assert len(summary["reporting"]) == 32
    stored = StoredRun.read(folder)
    answers = stored.answers("val", "start")
    assert answers is not None
    assert [*answers] == summary["reporting"]
    right = sum(answer.label == answer.predicted for answer in answers.values())
    start = summary["start"]
    assert start["val_accuracy"] == pytest.approx(right / 32, abs=1e-6), "on the same half"
    error = (right / 32 * (1 - right / 32) / 32) ** 0.5
    assert start["val_standard_error"] == pytest.approx(error, abs=1e-6)
    assert "value" not in start, "trials are compared by no accuracy"
    assert stored.count("val") == 32
    assert "Best within one standard error" in capsys.readouterr().out
    assert run(LAB3, *arguments, "--report_on=half") == 2
    assert 'monitor: "val/divergence" → "val/accuracy"' in capsys.readouterr().err


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return all(torch.equal(first[key], second[key]) for key in first.keys() & second.keys())


@pytest.mark.long
def test_lab3_only_evaluates_the_untrained_studies(run: Run, tmp_path: Path) -> None:
    logs = tmp_path / "lightning_logs" / "lab3"
    small = [*SMALL_LAB3, "--trials=1"]
    assert run(LAB3, *small, "--only=[Integer, MXInt]", "--untrained=[MXInt]") == 0
    assert run(LAB3, *small, "--only=[MXInt]", "--train=false", "--run=none") == 0
    untrained = [row for row in rows(logs / "test") if row["study"] == "MXInt"]
    assert untrained == rows(logs / "none")
    start = logs / "test" / "checkpoints" / "start.ckpt"
    kept = {name: next((logs / "test" / name).glob("*.ckpt")) for name in ("Integer", "MXInt")}
    assert same_weights(kept["MXInt"], start)
    assert not same_weights(kept["Integer"], start)


@pytest.mark.long
def test_lab3_refuses_to_continue_an_untrained_study_with_training(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--only=[Full]", "--studies={Full: [Full]}", "--figures={full: [Full]}"]
    assert run(LAB3, *SMALL_LAB3, *few, "--untrained=[Full]") == 0
    assert run(LAB3, *SMALL_LAB3, *few, "--train=false") == 0, "the same thing in other words"
    assert run(LAB3, *SMALL_LAB3, *few) == 2
    assert "train: false → true" in capsys.readouterr().err


@pytest.mark.long
def test_lab3_computes_as_mase_does_and_the_recipe_says_so(run: Run, tmp_path: Path) -> None:
    config = f"--config={ROOT / 'configs' / 'lab3_mase.yaml'}"
    few = ["--trials=2", "--only=[BlockMinifloat, Binary]"]
    assert run(LAB3, config, *SMALL_LAB3, *few) == 0
    standard = ["--backend=standard", "--untrained=[]", "--run=standard"]
    assert run(LAB3, config, *SMALL_LAB3, *few, *standard) == 0
    logs = tmp_path / "lightning_logs" / "lab3"
    trials = [(row["study"], row["recipe"]) for row in rows(logs / "test")]
    same = [(row["study"], row["recipe"]) for row in rows(logs / "standard")]
    assert trials == same, "both backends try the same, so that their curves can be compared"
    assert [study for study, _ in trials] == ["BlockMinifloat"] * 2 + ["Binary"], "has one point"
    folders = [logs / name / "BlockMinifloat" for name in ("test", "standard")]
    recipes = [yaml.safe_load((folder / "best_recipe.yaml").read_text()) for folder in folders]
    assert [recipe.get("backend") for recipe in recipes] == ["mase", None]
    assert all("block_size=(-1, " in f["weight"] for f in recipes[0]["quantize"].values())
    start = logs / "test" / "checkpoints" / "start.ckpt"
    kept = [next(folder.glob("*.ckpt")) for folder in folders]
    assert [same_weights(path, start) for path in kept] == [True, False]


def test_lab3_without_chop_says_where_it_is_before_any_work(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    if find_spec("chop"):
        pytest.skip("chop is here")
    assert "https://github.com/DeepWok/mase" in refused(LAB3, *SMALL_LAB3, "--backend=chop")
    assert not list(tmp_path.iterdir()), "not even data were read"


def test_lab3_shares_one_choice_and_enumerates_it_on_a_grid(run: Run, tmp_path: Path) -> None:
    grid = ["--share=true", f"--sampler={GRID}", "--trials=50", "--train=false"]
    studies = ["--studies={Ternary: [Ternary]}", "--figures={ternary: [Ternary]}"]
    assert run(LAB3, *SMALL_LAB3, *grid, *studies) == 0
    assert len(rows(tmp_path / "lightning_logs" / "lab3" / "test")) == 3


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_lab3_stopped_in_the_middle_loses_no_finished_trial(tmp_path: Path, how: int) -> None:
    command = [sys.executable, str(LAB3), *SMALL_LAB3, "--only=[Integer]", "--trials=40"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs, and so perhaps these tests, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    deadline = time.monotonic() + 120
    while not (folder / "results.csv").is_file() or len(rows(folder)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate()
    expected = {signal.SIGTERM: 143, signal.SIGINT: 130}
    assert process.returncode == expected[how]  # type: ignore[index]
    finished = rows(folder)
    assert 2 <= len(finished) < 40
    command[-1] = f"--trials={len(finished) + 1}"
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    # One more trial than the file shows may have ended before the signal came.
    assert rows(folder)[: len(finished)] == finished
    assert len(rows(folder)) == len(finished) + 1


def test_lab3_says_how_a_sampler_is_named(refused: Callable[..., str]) -> None:
    assert "such as optuna.samplers.TPESampler" in refused(LAB3, "--sampler=random")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--precisions={A: Intger}", "--studies={A: [A]}", "--figures={a: [A]}"],
            "did you mean Integer",
        ),
        (["--ranges={widht: [8]}"], "'widht' is no parameter of any format"),
        (["--ranges={width: [99]}"], "no format takes width: MXInt: width=99 is not in"),
        (["--ranges={width: 8}"], "'8' is no list"),
        (["--studies={A: [Intger]}"], "'A' names 'Intger', which is no precision"),
        (["--ranges={block_size: [16, [-1, 0]]}"], "no format takes block_size: "),
        (["--ranges={block_size: [[-1, 16, 2]]}"], "block_size=(-1, 16, 2) is not a block"),
        (["--ranges={block_size: [[wide, 16]]}"], "wide"),
        (["--only=[Intger]"], "'only' names 'Intger', which is no study"),
        (["--untrained=[Intger]"], "'untrained' names 'Intger', which is no study"),
        (["--backend=fast"], "'standard', 'mase', 'chop'"),
        (["--layers=[encodr.*]"], "pattern 'encodr.*' matches none of the 8 layers"),
        (["--sampler=cmaes"], "sampler"),
        (["--sampler.seed=3"], "Option 'seed' is not accepted"),
        ([f"--sampler={GRID}"], "use 'random' or 'tpe'"),
        (
            ["--sampler=optuna.samplers.NSGAIISampler", "--sampler.population_size=1"],
            "sampler=NSGAIISampler cannot be made",
        ),
        (["--pruner=Nothing"], "pruner"),
        (["--trials=0"], "trials=0 is below 1"),
        (["--precisions.Foo=Intger(width=8)"], "did you mean Integer"),
        (["--precisions.Foo={weights: Integer}"], "names ['weights']"),
        (["--precisions.Foo=Integer(width=8)"], "no study uses 'Foo'; add it to one, such as"),
        (
            ["--precisions.Log=Log(width=8)", "--studies={A: [Full]}", "--figures={a: [A]}"],
            "no study uses 'Log'",
        ),
        (["--storage=nosuch://host/name"], "nosuch://host/name cannot be opened"),
        (["--storage=sqlite:////proc/nothing.db"], "cannot be opened"),
        (["--budget.epochs=1.5"], "epochs=1.5 is neither"),
        (["--classifier.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--model.num_attention_heads=3"], "no multiple of num_attention_heads=3"),
        (["--data.max_length=65"], "max_length=65 is above the 64 positions"),
        (["--data.dataset=nothing.csv", "--data.tokenizer=x"], "nothing.csv"),
        (["--data.label=stars"], "stars"),
        (["--weights=missing.ckpt"], "missing.ckpt"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--modle.hidden_size=3"], "did you mean --model?"),
        (["--budget.precision=int3"], "precision='int3'"),
        (["--budget.accelerator=abacus"], "abacus"),
    ],
)
def test_lab3_refuses_wrong_input_in_one_line_before_any_training(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused(LAB3, *SMALL_LAB3, *arguments)


@pytest.mark.long
def test_lab3_reads_a_data_set_from_its_own_file(run: Run) -> None:
    data = f"--data={ROOT / 'configs' / 'data' / 'reviews.yaml'}"
    assert run(LAB3, data, *SMALL_LAB3, "--only=[Full]") == 0


@pytest.mark.long
def test_lab3_refuses_to_continue_a_changed_search(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--trials=1") == 0
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--trials=1", "--seed=1") == 2
    assert "seed: 0 → 1" in capsys.readouterr().err


def test_every_lab3_config_is_read_and_its_spaces_are_built(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(ROOT.glob("configs/lab3_*.yaml")):
        content = yaml.safe_load(path.read_text())
        # Only what does not need the hub; the last argument stops it before any training.
        local = {key: content[key] for key in content.keys() - {"data", "model"}}
        arguments = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in local.items()
        ]
        assert run(LAB3, *SMALL_LAB3, *arguments, "--weights=missing.ckpt") == 2, path
        assert "missing.ckpt" in capsys.readouterr().err, path


@pytest.mark.long
def test_lab3_says_why_its_numbers_may_mean_nothing_once(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_adls.labs import concerns

    monkeypatch.setattr(concerns, "_said", set())
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer, MXInt]", "--trials=2", "--train=false") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line for line in lines if "64 rows validate" in line]
    assert [line for line in lines if "the start is at chance" in line]
    assert [line for line in lines if line.startswith("warning: Integer, MXInt: the trials differ")]
    assert len(set(lines)) == len(lines)


@pytest.mark.long
def test_lab3_shows_the_best_models_layer_by_layer_if_asked_to(run: Run, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = [*SMALL_LAB3, "--only=[Integer]", "--trials=1", "--train=false"]
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert run(LAB3, *small) == 0
    assert not list(folder.glob("overview/Integer/best/events*"))
    assert run(LAB3, *small, "--tensorboard.histograms=true") == 0
    events = EventAccumulator(str(folder / "overview" / "Integer" / "best"))
    events.Reload()
    assert len(events.Tags()["histograms"]) == 8, "one for each linear layer"
    for what in ("weights", "inputs"):
        shares = [event.value for event in events.Scalars(f"saturation/{what}")]
        assert len(shares) == 8
        assert all(0 <= share <= 1 for share in shares)


@pytest.mark.long
def test_lab3_writes_nothing_for_tensorboard_if_told_so(run: Run, tmp_path: Path) -> None:
    none = ["--tensorboard=null", "--logger=[CSVLogger]"]
    assert run(LAB3, *SMALL_LAB3, *none, "--only=[Full]", "--trials=1") == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert not list(folder.rglob("events*"))
    assert "val/accuracy" in (folder / "Full" / "trials" / "001" / "metrics.csv").read_text()


@pytest.mark.long
def test_loggers_that_share_the_folder_of_a_trial_give_no_warnings(
    run: Run, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    both = ["--logger=[TensorBoardLogger, CSVLogger]", "--only=[Full]", "--trials=1"]
    assert run(LAB3, *SMALL_LAB3, *both) == 0
    assert not [each for each in recwarn if "is not empty" in str(each.message)]
    assert "is not empty" not in capsys.readouterr().err
