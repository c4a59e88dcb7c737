"""Lab 4 as its users run it, on sizes that take no time."""

import csv
import json
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lightning_adls import export, figures, report
from lightning_adls.errors import MissingPackageError
from lightning_adls.models import bert

LAB4 = Path(__file__).parents[2] / "scripts" / "lab4_performance.py"
FOLDER = Path("lightning_logs", "lab4", "test")
DIMENSIONS = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
SMALL = [
    *(f"--model.{name}={size}" for name, size in DIMENSIONS.items()),
    *("--rounds.timed=2", "--rounds.warmup=0", "--devices=[cpu]", "--dtypes=[float32]"),
    *("--compiling.backends=[eager]", "--compiling.formats=['MXInt(width=8)']"),
    *("--compiling.batch=2", "--compiling.tokens=8", "--compiling.few=3"),
    *("--compiling.lengths=[3, 11]", "--compiling.multiples=[1, 16]", "--compiling.image=32"),
    *("--attention.batch=2", "--attention.heads=2", "--attention.head_size=4"),
    *("--attention.lengths=[6, 12]", "--attention.backends=[math]"),
    *("--mxint8.shapes=[[8, 40]]", "--mxint8.batches=[3]", "--run=test"),
    *("--export.epochs=0.02", "--export.rows=50", "--export.max_length=16"),
]
# Compiling is what takes time.
ATTENTION, MXINT8, EXPORT = (f"--parts=[{part}]" for part in ("attention", "mxint8", "export"))
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")

Run = Callable[..., int]
Row = dict[str, str]


def rows(experiment: str | None = None, folder: Path = FOLDER) -> list[Row]:
    with (folder / "results.csv").open() as file:
        return [r for r in csv.DictReader(file) if experiment in (None, r["experiment"])]


@pytest.fixture(autouse=True)
def cache(cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are tokenised once."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a run does, drawing takes the longest at these sizes."""
    for name in ("draw_points", "draw_bars"):
        monkeypatch.setattr(figures, name, lambda *_, **__: None)
    monkeypatch.setattr(report, "log_curves", lambda *_, **__: None)


@pytest.mark.long
def test_lab4_measures_all_parts_and_writes_all_results(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB4, *SMALL) == 0
    found = rows()
    assert list(dict.fromkeys(row["part"] for row in found)) == [
        *("compile", "attention", "mxint8", "export")
    ]
    assert {row["target"] for row in found if row["error"]} <= {"ResNet-18"}
    summary = json.loads((FOLDER / "summary.json").read_text())
    assert summary["versions"]["torch"] == torch.__version__
    assert len(summary["results"]) == len(found)
    for figure in ("compile_cpu", "attention_forward_cpu_mask_none_peak", "mxint8_memory"):
        assert (FOLDER / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert list((FOLDER / "tensorboard" / figure).glob("*/events*")), figure
    printed = capsys.readouterr().out
    for title in ("compile: steady", "attention: forward+backward", "mxint8: memory", "cores"):
        assert title in printed

    exported = rows("export")
    assert [row["target"] for row in exported] == [
        *("fake-quantised", "packed", "ONNX", "torch.export", "compressed-tensors", "lowered")
    ]
    for row in exported[1:]:
        assert float(row["largest_difference"]) < 1e-5
        assert (row["flips"], row["p_value"], row["rows"]) == ("0", "1.0", "50")
    assert len({row["accuracy"] for row in exported}) == 1
    assert int(exported[1]["bytes"]) == (FOLDER / "export" / "model.safetensors").stat().st_size
    assert "All 50 answers of packed, ONNX" in printed

    few = {row["variant"]: row for row in rows("few calls")}
    steady = {(row["target"], row["variant"]): row for row in rows("steady")}
    compiled = "compiled eager float32"
    assert {target for target, _ in steady} >= {"BERT", "MXInt(width=8)"}
    assert {row["variant"] for row in rows("training")} == {compiled, "eager float32"}
    assert all(float(row["max_relative_error"]) < 1e-3 for row in rows("training"))
    mean, first = float(few[compiled]["mean_ms"]), float(few[compiled]["first_call_ms"])
    assert first / 3 < mean < first, "the mean of three calls, the first of which compiles"
    assert mean > 3 * float(steady["BERT", compiled]["median_ms"])

    graphs = {
        (row["variant"].removeprefix("compiled eager").split()[0], row["padded_to"]): row
        for row in rows("lengths")
    }
    assert int(graphs["static", "1"]["graphs"]) == 2
    assert int(graphs["static", "16"]["graphs"]) == 1, "both are padded to 16"
    assert int(graphs["dynamic", "1"]["graphs"]) == 1
    assert float(graphs["static", "1"]["padding"]) == 0
    assert float(graphs["static", "16"]["padding"]) == 1 - 14 / 32


@pytest.mark.usefixtures("no_figures")
def test_lab4_counts_the_bytes_of_the_whole_model(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB4, *SMALL, MXINT8) == 0
    counted = {row["target"]: row for row in rows("memory")}
    model = bert(**dict[str, Any](DIMENSIONS))
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    assert int(counted["all"]["bytes_before"]) == sum(t.nbytes for t in tensors.values())
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    saved = sum(w.nbytes - w.numel() - len(w) * -(-w.shape[1] // 32) for w in weights)
    before, after = (int(counted["all"][f"bytes_{when}"]) for when in ("before", "after"))
    assert before - after == saved
    printed = " ".join(capsys.readouterr().out.split())
    assert f"saves {saved:,} bytes, {saved / before:.2%}" in printed
    assert "(32 - 8.25)/32 = 74.22%" in printed


@pytest.mark.usefixtures("no_figures")
def test_lab4_an_engine_that_is_not_installed_has_a_row_that_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any) -> None:
        raise MissingPackageError("export: onnxruntime is not installed; run pip install it.")

    for name in ("onnx", "program", "compressed_tensors", "lower"):
        monkeypatch.setattr(export, name, missing, raising=False)
    assert run(LAB4, *SMALL, EXPORT) == 0
    errors = {row["target"]: row["error"] for row in rows()}
    assert (errors.pop("fake-quantised"), errors.pop("packed")) == ("", "")
    assert len(errors) == 4
    assert all("onnxruntime is not installed" in error for error in errors.values())
    assert "Not measured, 4 x (ONNX, torch.export" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_lab4_speeds_are_the_bytes_over_the_time(run: Run) -> None:
    assert run(LAB4, *SMALL, MXINT8) == 0
    # A weight of 8 x 40 has 1280 bytes, packed 320 + 8 * 2.
    moved = {
        "copy": 2560,
        "quantize": 1616,
        "dequantize": 1616,
        "dequantize to bfloat16": 976,
        "dequantize by definition": 1616,
        # The bias, 8, and 3 rows of 40 and of 8.
        "linear": 1280 + 4 * (8 + 3 * 48),
        "rounded": 1280 + 4 * (8 + 3 * 48),
        "rounded and input": 1280 + 4 * (8 + 3 * 48),
        "packed": 336 + 4 * (8 + 3 * 48),
    }
    found = [*rows("operators"), *rows("linear")]
    assert {row["target"]: int(row["moved_bytes"]) for row in found} == moved
    for row in found:
        rate = int(row["moved_bytes"]) / float(row["median_ms"]) / 1e6
        assert float(row["gb_per_s"]) == pytest.approx(rate)


@pytest.mark.usefixtures("no_figures")
def test_lab4_keeps_a_row_for_what_cannot_be_measured(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    backends = "--attention.backends=[math, nonsense]"
    assert run(LAB4, *SMALL, ATTENTION, backends, "--attention.lengths=[6]") == 0
    errors = {row["target"]: row["error"] for row in rows()}
    assert errors.pop("sdpa nonsense").startswith("fused: backend='nonsense' is unknown;")
    assert set(errors) == {"naive", "sdpa", "sdpa math"}
    assert set(errors.values()) == {""}
    assert "Not measured, 4 x (sdpa nonsense on cpu)" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_lab4_an_unknown_compiler_costs_its_rows_only(run: Run) -> None:
    options = ["--parts=[compile]", "--compiling.backends=[nonsense]", "--compiling.formats=[]"]
    assert run(LAB4, *SMALL, *options) == 0
    errors = {row["variant"]: row["error"] for row in rows() if row["target"] == "BERT"}
    assert errors.pop("eager float32") == ""
    assert errors
    assert all("backend='nonsense' is unknown" in error for error in errors.values())


@pytest.mark.long
@pytest.mark.usefixtures("no_figures")
def test_lab4_an_unknown_mode_of_inductor_costs_its_rows_only(run: Run) -> None:
    options = ["--parts=[compile]", "--compiling.formats=[]", "--compiling.multiples=[16]"]
    assert run(LAB4, *SMALL, *options, "--compiling.backends=[eager, inductor nonsense]") == 0
    errors = {row["variant"]: row["error"] for row in rows("steady") if row["target"] == "BERT"}
    assert "mode='nonsense' is unknown" in errors.pop("compiled inductor nonsense float32")
    assert set(errors.values()) == {""}


@pytest.mark.long
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_lab4_without_a_torchvision_that_works_its_row_says_so(
    error: type[Exception], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name.startswith("torchvision"):
                raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    options = ["--parts=[compile]", "--compiling.formats=[]", "--compiling.multiples=[16]"]
    assert run(LAB4, *SMALL, *options) == 0
    errors = {row["target"]: row["error"] for row in rows("steady")}
    assert "pip install torchvision" in errors["ResNet-18"]
    assert errors["BERT"] == ""


@pytest.mark.long
@pytest.mark.usefixtures("no_figures")
def test_lab4_measures_resnet_18_where_torchvision_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = types.ModuleType("torchvision.models")
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    vars(models)["resnet18"] = lambda: small
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    options = ["--parts=[compile]", "--compiling.formats=[]", "--compiling.multiples=[16]"]
    assert run(LAB4, *SMALL, *options) == 0
    found = [row for row in rows("steady") if row["target"] == "ResNet-18"]
    assert [row["variant"] for row in found] == ["eager float32", "compiled eager float32"]
    assert all(float(row["max_relative_error"]) < 1e-5 for row in found)


@pytest.mark.usefixtures("no_figures")
def test_lab4_out_of_memory_for_one_size_leaves_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax = Tensor.softmax

    def limited(scores: Tensor, dim: int) -> Tensor:
        if scores.shape[-1] == 12:
            raise torch.OutOfMemoryError("12 tokens are too many")
        return softmax(scores, dim)

    monkeypatch.setattr(Tensor, "softmax", limited)
    assert run(LAB4, *SMALL, ATTENTION) == 0
    for row in rows():
        failed = (row["target"], row["tokens"]) == ("naive", "12")
        assert row["error"] == ("out of memory: 12 tokens are too many" if failed else "")
        assert bool(row["median_ms"]) != failed
        assert bool(row["max_relative_error"]) == (row["tokens"] == "6")


@needs_no_gpu
@pytest.mark.usefixtures("no_figures")
def test_lab4_without_a_gpu_says_so_in_the_rows_and_how_to_fill_them(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB4, *SMALL, ATTENTION, "--devices=[cuda, cpu]") == 0
    by_device: dict[str, set[bool]] = {}
    for row in rows():
        by_device.setdefault(row["device"], set()).add("CUDA devices" in row["error"])
    assert by_device == {"cuda": {True}, "cpu": {False}}
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.endswith(" ...")] == [
        "attention on cpu, 1 of 1 ..."
    ], "nothing is done on a device that is missing"
    command = next(line for line in printed.splitlines() if line.startswith(f"  python {LAB4}"))
    given = shlex.split(command)
    assert given[1] == str(LAB4)
    told = ("--devices", "--run")
    others = [each for each in sys.argv[1:] if each.partition("=")[0] not in told]
    assert given[2:] == [*others, "--devices", "[cuda]", "--run", "test-cuda"]
    assert run(LAB4, *given[2:]) == 1, "there is still no GPU"
    assert {row["device"] for row in rows(folder=FOLDER.with_name("test-cuda"))} == {"cuda"}


@needs_no_gpu
@pytest.mark.parametrize("part", [ATTENTION, MXINT8])
def test_lab4_fails_only_if_nothing_could_be_measured(
    part: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB4, *SMALL, part, "--devices=[cuda]") == 1
    assert "lab4: nothing could be measured." in capsys.readouterr().err
    assert rows()


@pytest.mark.long
def test_lab4_config_yaml_repeats_a_run_and_the_same_name_measures_anew(run: Run) -> None:
    assert run(LAB4, *SMALL, MXINT8) == 0
    first = rows()
    settings = yaml.safe_load((FOLDER / "config.yaml").read_text())
    assert settings["mxint8"] == {"shapes": [[8, 40]], "batches": [3]}
    assert run(LAB4, f"--config={FOLDER / 'config.yaml'}") == 0
    times = [[row["median_ms"] for row in found if row["median_ms"]] for found in (first, rows())]
    assert len(times[0]) == len(times[1])
    assert times[0] != times[1]
    assert run(LAB4, *SMALL, ATTENTION) == 0
    assert {row["part"] for row in rows()} == {"attention"}
    assert not list(FOLDER.glob("mxint8*")), "figures of an earlier run of this name"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--attention.lengths=[0]", "Attention: lengths=[0] has a number below 1."),
        ("--attention.backends=[]", "Attention: backends=[] is empty"),
        ("--compiling.backends=[eager fast]", "mode='fast' is for backend='inductor'"),
        ("--mxint8.shapes=[[0, 4]]", "has a number below 1"),
        ("--compiling.formats=['Nonsense(width=8)']", "Nonsense"),
        ("--export.format='Nonsense(width=8)'", "Nonsense"),
        ("--export.rows=0", "Exporting: rows=0 has a number below 1."),
        ("--export.weights=missing.ckpt", "there is no file 'missing.ckpt' of weights"),
        ("--compiling.lengths=[17]", "max_length=32 is above the 16 positions"),
        ("--devices=[]", "give at least one"),
        ("--dtypes=[int8]", "dtype='int8' is none of"),
        ("--parts=[nonsense]", "nonsense"),
        ("--rounds.timed=0", "timed=0 is below 1"),
    ],
)
def test_lab4_refuses_wrong_input_before_it_measures(
    argument: str, said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(LAB4, *SMALL, argument)
    assert not FOLDER.exists()
