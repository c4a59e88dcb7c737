"""Lab reports of generated runs: what they say, that it is so, and how the page behaves."""

import base64
import csv
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stored_runs
import yaml

from lightning_adls import formats
from lightning_adls.errors import InputValueError
from lightning_adls.labs.drawing import Figure
from lightning_adls.labs.lab_report import write_report, writing
from lightning_adls.labs.lab_report.comparing import measured
from lightning_adls.labs.lab_report.references import FORMATS
from lightning_adls.labs.stored import StoredRun
from lightning_adls.significance import Difference

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
HEADINGS = ["Setup", "Results", "Observations", "Conclusion", "Key takeaways", "References"]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw takes the longest, and is tested by itself: there are two figures of a pixel."""

    def draw(run: StoredRun) -> list[Figure]:
        figures = [Figure(run.folder / f"{name}.png", f"What {name} *show*.") for name in "ab"]
        for figure in figures:
            figure.path.write_bytes(PIXEL)
        return figures

    monkeypatch.setattr(writing, "draw", draw)


def report_of(*folders: Path, into: Path | None = None) -> tuple[str, str]:
    """The texts of both files."""
    runs = [StoredRun.read(folder) for folder in folders]
    text, page = write_report(runs, into)
    return text.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def change(folder: Path, name: str, **values: Any) -> None:
    """Change a file of a run: its config, or its summary."""
    path = folder / name
    content = yaml.safe_load(path.read_text())
    content |= values
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("lab", stored_runs.MAKE)
def test_a_report_has_all_sections_and_its_page_needs_nothing_else(
    lab: str, tmp_path: Path
) -> None:
    folder = stored_runs.MAKE[lab](tmp_path / lab / "test")
    text, page = report_of(folder)
    assert re.findall("^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert re.findall("<h2>(.*)</h2>", page) == HEADINGS
    for heading in HEADINGS:
        assert len(section(text, heading)) > 40, heading
    figures = re.findall(r"!\[.*\]\(<(.*)>\)", text)
    assert figures == ["a.png", "b.png"]
    sources = re.findall('src="(.{40})', page)
    assert len(sources) == len(figures)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.findall(r"(?:src|href)=.https?:|@import|url\(", page)
    for line in ("Data", "Model", "Command", "Versions", "Time in all"):
        assert f"| {line} |" in text or (lab == "lab4" and line == "Data")
    assert "1 h 2 min" in text


def test_the_statements_of_lab_1_are_those_of_its_rows(tmp_path: Path) -> None:
    text, _ = report_of(stored_runs.lab1(tmp_path / "lab1" / "test"))
    said = section(text, "Observations")
    # 4 bits: PTQ 0.50, QAT 0.76 of 500 rows, nested: 130 rows differ, all in one direction.
    error = 100 * (130 - 130**2 / 500) ** 0.5 / 500
    statement = f"QAT at 4 bits (half) is 26.0 ± {error:.1f} points above PTQ (paired, p < 0.001)."
    assert statement in said
    assert "PTQ, half: no loss against float32 is shown from 8 bits on (+0.0 ± 0.0 points" in said
    assert "at 6 bits it loses 9.0 ± 1.3 points (paired, p < 0.001)" in said
    assert "Pruning (l1-norm, one shot): a loss already at a sparsity of 0.5; at 0.9 it" in said
    assert "l1-norm beats random pruning (cubic) at 2 of 2 sparsities; the largest" in said
    assert "The quantised and float32" not in said
    assert "The quantised model and float32 are indistinguishable on the test rows" in said
    conclusion = section(text, "Conclusion")
    assert statement in conclusion
    fewest = "- Down to 6 bits no loss against float32 is shown, by PTQ, calibrated by mse.\n"
    assert fewest in conclusion
    assert "from 8 bits on" not in conclusion, "the observations are not said twice"
    sparse = "sparse (l1-norm, cubic, sparsity 0.5): 81.0 ± 1.2 % on test, 8 bits per weight"
    assert sparse in section(text, "Key takeaways")


def test_a_loss_that_is_not_shown_has_its_sign() -> None:
    less, more = (Difference(value, 0.01, 0.3, paired=True) for value in (-0.01, 0.008))
    assert measured(less).startswith("(-1.0 ± 1.0 points")
    assert measured(more).startswith("(+0.8 ± 1.0 points")


def test_numbers_of_a_table_stand_below_each_other(tmp_path: Path) -> None:
    text, page = report_of(stored_runs.lab1(tmp_path / "lab1" / "test"))
    lines = text.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("| model | how it was"))
    assert lines[header + 1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert '<th style="text-align:right">val accuracy</th>' in page


def test_a_lab_that_does_nothing_but_guess_says_so_first(tmp_path: Path) -> None:
    for lab, make in stored_runs.MAKE.items():
        folder = make(tmp_path / lab / "test")
        assert "guessing" not in report_of(folder)[0], lab
        rows = (folder / "results.csv").read_text()
        if lab != "lab4":
            column = rows.split("\n")[0].split(",").index("val_accuracy")
            with (folder / "results.csv").open(newline="") as file:
                header, *body = csv.reader(file)
            with (folder / "results.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                writer.writerows([*row[:column], "0.5", *row[column + 1 :]] for row in body)
            text, _ = report_of(folder)
            for heading in ("Observations", "Conclusion"):
                first = section(text, heading).strip().splitlines()[0]
                assert first.endswith("(50.0 %): what is compared below says nothing."), lab


@pytest.mark.parametrize(
    ("lab", "names"),
    [
        ("lab1", ["qat/half/8", "ptq/half/8"]),
        ("lab2", ["plain", "compressed"]),
        ("lab3", ["Full", "MXInt"]),
    ],
)
def test_models_that_are_as_good_as_the_best_are_named(
    lab: str, names: list[str], tmp_path: Path
) -> None:
    folder = stored_runs.MAKE[lab](tmp_path / lab / "test")
    cost = "size_mb" if lab == "lab2" else "bits_per_weight"
    first, second = names
    best = {"best": first, "indistinguishable": names, "within_one_standard_error": second}
    change(folder, "summary.json", best={**best, "cost": cost})
    text, _ = report_of(folder)
    line = f"not told from it: {second}. Best within one standard error: {second}, "
    assert line in section(text, "Observations")
    assert line in section(text, "Conclusion")


def test_how_large_a_difference_may_be_that_is_not_shown(tmp_path: Path) -> None:
    text, _ = report_of(stored_runs.lab3(tmp_path / "lab3" / "test"))
    found = re.findall(r"indistinguishable .*; with 95 % confidence (\S+) to (\S+) points", text)
    assert found
    assert all(float(low) < 0 < float(high) for low, high in found)


def test_without_predictions_the_tests_are_unpaired_and_see_less(tmp_path: Path) -> None:
    text, _ = report_of(stored_runs.lab1(tmp_path / "lab1" / "test", paired=False))
    said = section(text, "Observations")
    assert "(paired" not in said
    assert re.search(
        r"QAT at 4 bits \(half\) is 26\.0 ± 2\.9 points above PTQ \(unpaired, p < 0.001\)", said
    )
    assert "QAT and PTQ (half) are indistinguishable at 8 and 16 bits" in said


def test_the_statements_of_the_other_labs_are_those_of_their_rows(tmp_path: Path) -> None:
    said = {
        lab: section(report_of(make(tmp_path / lab / "test"))[0], "Observations")
        for lab, make in stored_runs.MAKE.items()
    }
    assert "Training all weights is 4.0 ± 0.6 points above LoRA, merged on the test" in said["lab0"]
    assert "LoRA trains 3,000 parameters, 2.1% of those" in said["lab0"]
    assert "The model “compressed afterwards” is 26.0 ± 1.4 points below" in said["lab2"]
    assert re.search(
        "tpe is first, .* then random, .*: their ranges (are apart|overlap)", said["lab2"]
    )
    assert "Integer: best at trial 7 of 8; 1 pruned." in said["lab3"]
    assert "Integer and the float32 start are indistinguishable on the val" in said["lab3"]
    assert "Integer: 3 of 8 trials are at chance." in said["lab3"]
    assert "indistinguishable on the test rows from Full and Block" in said["lab3"]
    assert "2.00 times as fast; the 10th to 90th percentiles are apart" in said["lab4"]
    assert "ONNX answers 2 of 1,000 rows otherwise (McNemar p=0.5)." in said["lab4"]


def test_what_was_written_between_the_marks_stays(tmp_path: Path) -> None:
    folder = stored_runs.lab0(tmp_path / "lab0" / "test")
    text, _ = report_of(folder)
    mine = "LoRA is enough.\n\n- *because* it is"
    (folder / "report.md").write_text(
        text.replace("*Write your conclusion here.*", mine).replace("# Lab 0", "# My own title")
    )
    again, page = report_of(folder)
    assert mine in section(again, "Conclusion")
    assert "*Write your key takeaways here.*" in again
    assert "My own title" not in again
    assert "<em>because</em> it is" in page


def test_a_file_that_no_report_was_written_into_is_not_replaced(tmp_path: Path) -> None:
    folder = stored_runs.lab0(tmp_path / "lab0" / "test")
    (folder / "report.md").write_text("# my own notes")
    with pytest.raises(InputValueError, match="was not made by this command"):
        report_of(folder)
    assert (folder / "report.md").read_text() == "# my own notes"
    assert not (folder / "report.html").exists()


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    folder = stored_runs.lab3(tmp_path / "lab3" / "test")
    (folder / "summary.json").unlink()
    with pytest.raises(InputValueError, match="its lab has not finished"):
        report_of(folder)


def test_several_runs_stand_side_by_side_and_are_compared(tmp_path: Path) -> None:
    folders = [stored_runs.lab1(tmp_path / "lab1" / name) for name in ("test", "other")]
    change(folders[1], "summary.json", run="other")
    change(folders[1], "config.yaml", seed=1)
    stored_runs.answer(folders[1], "test", "qat/half/8", 0.8)
    text, page = report_of(*folders, into=tmp_path / "both")
    setup = section(text, "Setup")
    assert "| run | lab1/test | lab1/other |" in setup
    assert "| Seed | **0** | **1** |" in setup
    assert "| `tolerance` | 0.06 | 0.06 |" in setup
    said = section(text, "Observations")
    assert "quantised of lab1/test is 4.5 ± 0.7 points above that of lab1/other" in said
    assert "float32 of lab1/test and that of lab1/other are indistinguishable" in said
    assert "![lab1/other: " in text
    assert "](<../lab1/other/a.png>)" in text
    assert page.count("data:image/png") == 2 * 2
    assert "*lab1/test, lab1/other: What a " in text, "which figure is of which run"
    assert "\n\n- " not in section(text, "Conclusion").lstrip(), "one list"


def seeds_of(lab: str, folder: Path, changes: dict[int, float]) -> list[Path]:
    """A run for each seed, whose accuracies are so much higher."""
    folders = []
    for seed, change_by in changes.items():
        run = stored_runs.MAKE[lab](folder / lab / f"seed{seed}")
        change(run, "config.yaml", seed=seed, weights=f"start{seed}.ckpt", run=f"seed{seed}")
        summary = json.loads((run / "summary.json").read_text())
        models = summary.get("models", summary["results"])
        for name, row in models.items():
            for column in ("val_accuracy", "test_accuracy"):
                if row.get(column) is not None and name != "Full":
                    row[column] += change_by
        change(run, "summary.json", **(summary | {"run": f"seed{seed}"}))
        folders.append(run)
    return folders


def test_runs_of_several_seeds_have_means_over_them(tmp_path: Path) -> None:
    folders = seeds_of("lab3", tmp_path, {0: 0.0, 1: 0.03, 2: -0.03})
    text, _ = report_of(*folders, into=tmp_path / "all")
    title = "Means over seeds 0, 1, 2 of lab3/seed0, lab3/seed1, lab3/seed2"
    table = section(text, "Results").partition(title)[2].partition("\n\n**")[0]
    assert "points above Full, test" in table
    results = json.loads((folders[0] / "summary.json").read_text())["results"]
    error = 100 * statistics.stdev([0.0, 0.03, -0.03]) / math.sqrt(3)
    for name, row in results.items():
        val, test = (100 * row[f"{part}_accuracy"] for part in ("val", "test"))
        above, spread = test - 100 * results["Full"]["test_accuracy"], f"± {error:.1f}"
        line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
        if name == "Full":
            assert line == f"| Full | {val:.1f} ± 0.0 % | {test:.1f} ± 0.0 % | - |"
        else:
            assert f"{val:.1f} {spread} % | {test:.1f} {spread} % | {above:+.1f} {spread}" in line


def test_a_study_that_found_no_model_at_a_seed_has_no_mean(tmp_path: Path) -> None:
    folders = seeds_of("lab3", tmp_path, {0: 0.0, 1: 0.01})
    summary = json.loads((folders[1] / "summary.json").read_text())
    name = next(name for name in summary["results"] if name != "Full")
    summary["results"][name] = {"val_accuracy": None, "test_accuracy": None, "trials": 3}
    change(folders[1], "summary.json", results=summary["results"])
    text, _ = report_of(*folders, into=tmp_path / "both")
    table = section(text, "Results").partition("Means over seeds")[2].partition("\n### ")[0]
    assert "| Full | " in table
    assert f"| {name} | " not in table


def test_what_is_pruned_has_one_name_at_all_seeds_and_other_runs_have_no_means(
    tmp_path: Path,
) -> None:
    folders = seeds_of("lab1", tmp_path, {0: 0.0, 1: 0.0})
    rows = (folders[1] / "results.csv").read_text()
    (folders[1] / "results.csv").write_text(rows.replace("qat/half/8", "qat/half/6"))
    text, _ = report_of(*folders, into=tmp_path / "both")
    assert "| pruned/l1-norm/cubic/0.9 | " in text.partition("Means over seeds")[2]
    change(folders[1], "config.yaml", tolerance=0.5)
    text, _ = report_of(*folders, into=tmp_path / "both")
    assert "Means over seeds" not in text


def test_a_lab_of_your_own_is_reported_beside_another(tmp_path: Path) -> None:
    folders = [stored_runs.own_lab(tmp_path / "lab5" / "test"), stored_runs.lab0(tmp_path / "lab0")]
    text, _ = report_of(folders[0])
    assert "# lab5\n" in text
    assert "| mse/4 | 80.0 ± 1.8 % | 81.0 ± 1.2 % |" in section(text, "Results")
    said = section(text, "Observations")
    assert "The best on validation is start, 86.0 ± 1.6 %." in said
    assert "start is 4.0 ± 0.6 points above mse/4 on the test rows (paired, p < 0.001)." in said
    assert "- mse/4: 81.0 ± 1.2 % on test, 8 bits" in section(text, "Key takeaways")
    text, _ = report_of(*folders, into=tmp_path / "both")
    assert "| lab5/test | mse/4 | 80.0 ± 1.8 %" in section(text, "Results")


def test_runs_of_different_labs_stand_in_one_report_and_are_not_compared(tmp_path: Path) -> None:
    folders = [stored_runs.MAKE[lab](tmp_path / lab / "test") for lab in ("lab0", "lab4")]
    text, _ = report_of(*folders, into=tmp_path / "both")
    assert "# Lab report\n" in text
    assert "of lab0/test" not in section(text, "Observations")


def test_every_format_has_a_source_and_those_that_were_used_are_named(tmp_path: Path) -> None:
    assert set(FORMATS) == set(formats.__all__) - {"Encoded", "NumberFormat", "parse"}
    text, _ = report_of(stored_runs.lab3(tmp_path / "lab3" / "test"))
    named = {
        line.split(":")[0].removeprefix("- ") for line in section(text, "References").split("\n")
    }
    assert named & set(FORMATS) == {"Integer", "MXInt"}


def test_names_that_users_gave_are_text_and_no_part_of_the_page(tmp_path: Path) -> None:
    folder = stored_runs.lab1(tmp_path / "lab1" / "test")
    nasty = "<script>alert(1)</script> | a*b*"
    change(folder, "summary.json", classes=[nasty, "positive"], command=f"python {nasty}")
    text, page = report_of(folder)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    row = next(line for line in text.splitlines() if line.startswith("| Classes"))
    assert row.count(" | ") == 1, "a bar in a name is no column"


def test_make_report_writes_both_files_and_says_where(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        folder = stored_runs.lab0(Path("lightning_logs", "lab0", name))
        change(folder, "summary.json", run=name)
    assert run(SCRIPT, "lab0/a") == 0
    assert run(SCRIPT, "lab0/a", "lightning_logs/lab0/b") == 0
    written = capsys.readouterr().out.split()
    assert written == [
        *("lightning_logs/lab0/a/report.md", "lightning_logs/lab0/a/report.html"),
        *(f"lightning_logs/reports/lab0-a+lab0-b/report.{kind}" for kind in ("md", "html")),
    ]
    assert all(Path(path).is_file() for path in written)
    assert run(SCRIPT, "lab0/none") == 2


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Appended to the page: what a reader does, and what is seen then.
CLICKS = """
<script>
const cells = (table, n) => [...table.tBodies[0].rows].map((r) => r.cells[n].textContent.trim());
const table = [...document.querySelectorAll("table")].find(
  (one) => one.tHead.textContent.includes("best at trial"));
const header = [...table.tHead.rows[0].cells].findIndex(
  (one) => one.textContent.includes("val accuracy"));
const button = table.tHead.rows[0].cells[header].querySelector("button");
button.click();
const up = cells(table, header);
button.click();
const down = cells(table, header);
const image = document.querySelector("p > img");
image.click();
const zoomed = document.getElementById("zoom").open;
document.getElementById("zoom").click();
const closed = !document.getElementById("zoom").open;
const loaded = [...document.images].filter((one) => one.alt).every((one) => one.naturalWidth > 0);
const seen = { up, down, zoomed, closed, loaded, sort: button.parentElement.ariaSort };
document.body.innerHTML = "<pre id=seen>" + JSON.stringify(seen) + "</pre>";
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser_tables_sort_and_figures_zoom(tmp_path: Path) -> None:
    _, page = report_of(stored_runs.lab3(tmp_path / "lab3" / "test"))
    path = tmp_path / "clicked.html"
    path.write_text(page.replace("</body>", f"{CLICKS}</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search('<pre id="seen">(.*)</pre>', done.stdout)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    seen = json.loads(found[1])
    values = [float(text.split(" ")[0]) for text in seen["up"]]
    assert values == sorted(values)
    assert len(values) == len(stored_runs.STUDIES)
    assert [float(text.split(" ")[0]) for text in seen["down"]] == sorted(values, reverse=True)
    assert seen["sort"] == "descending"
    assert (seen["zoomed"], seen["closed"], seen["loaded"]) == (True, True, True)
