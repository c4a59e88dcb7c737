"""Runs of each lab as they lie on disk, of generated rows: nothing is trained."""

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lightning_adls.labs import classified
from lightning_adls.labs.classified import Classified
from lightning_adls.labs.rows.columns import accuracy, chosen, measured
from lightning_adls.labs.rows.steps import LAB0, LAB1, OWN_LAB
from lightning_adls.report import Row, running_best, write_csv, write_json

ROWS = {"train": 2000, "val": 500, "test": 1000}
CLASSES = ["negative", "positive"]
LAYERS = [
    *(f"bert.encoder.layer.{n}.{name}" for n in (0, 1) for name in ("attention.self.query", "out")),
    "classifier",
]
CONFIG: Row = {
    "data": {"dataset": "reviews", "subset": None, "max_length": 64},
    "model": {
        "class_path": "lightning_adls.models.bert",
        "init_args": {"checkpoint": None, "num_hidden_layers": 2, "hidden_size": 64},
    },
    "classifier": {"learning_rate": 5.0e-4, "weight_decay": 0.01},
    "seed": 0,
    "run": "test",
}
COSTS = {"parameters": 139_586, "size_mb": 0.4, "bits_per_weight": 8.0, "sparsity": 0.0}


def about(lab: str) -> Row:
    return {
        "lab": lab,
        "run": "test",
        "command": f"python scripts/{lab}.py --run test",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "environment": {"python": "3.11.7", "cpu": "a processor", "cores": "2 of 2"},
        "versions": {"lightning_adls": "0.1.0", "torch": "2.13.0"},
        "rows": ROWS,
        "classes": CLASSES,
        "total_seconds": 3725.0,
    }


def answer(folder: Path, split: str, step: str, right: float) -> None:
    """Store answers of which this share is right; better models are right where worse ones are."""
    path = folder / "predictions" / split / f"{step.replace('/', '_')}.csv"
    rows = ROWS[split]
    answers = {
        n: Classified(n % 2, n % 2 if n < round(right * rows) else 1 - n % 2) for n in range(rows)
    }
    classified.write(path, answers)


def write(folder: Path, config: Row, rows: Sequence[Row], summary: Row) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **config}, sort_keys=False))
    write_csv(folder / "results.csv", rows)
    write_json(folder / "summary.json", summary)
    return folder


def lab0(folder: Path) -> Path:
    rows = []
    for model, training, val, test in (
        *(("start", "pretraining", 0.7, None), ("full", "full", 0.9, 0.88)),
        *(("lora", "lora", 0.85, None), ("merged", "lora", 0.85, 0.84)),
    ):
        row = {"model": model, "training": training, **COSTS, "recipe": [], "seconds": 12.5}
        row |= {"trainable": 3000 if model == "lora" else 139_586, "checkpoint": f"{model}.ckpt"}
        if model == "merged":
            row |= {"largest_difference": 1e-6, "largest_logit": 2.5}
        if model in ("full", "lora"):
            row["curve"] = [[10, 0.75, 0.02], [20, 0.8, 0.02], [40, val, 0.01]]
        row |= {**accuracy("val", val, ROWS["val"]), **accuracy("test", test, ROWS["test"])}
        rows.append(chosen(row, LAB0))
        answer(folder, "val", model, val)
        if test is not None:
            answer(folder, "test", model, test)
    config = {"lora": {"rank": 4}, "budget": {"epochs": 2}, "lora_budget": {"epochs": 2}}
    results = {row["model"]: row for row in rows}
    parts = {"all": "139,586 parameters"}
    return write(folder, config, rows, {**about("lab0"), "model": parts, "results": results})


def own_lab(folder: Path) -> Path:
    """A run of a lab that the package does not know."""
    rows = []
    for step, val, test, bits in (
        *(("start", 0.86, 0.85, 32.0), ("minmax/4", 0.7, None, 4.0)),
        ("mse/4", 0.8, 0.81, 8.0),
    ):
        row = {"step": step, **COSTS, "recipe": [], "checkpoint": "a.ckpt", "bits_per_weight": bits}
        row |= {**accuracy("val", val, ROWS["val"]), **accuracy("test", test, ROWS["test"])}
        rows.append(chosen(row, OWN_LAB))
        for split, right in (("val", val), ("test", test)):
            if right is not None:
                answer(folder, split, step, right)
    return write(folder, {}, rows, {**about("lab5"), "results": {}})


def lab1(folder: Path, paired: bool = True) -> Path:
    rows: list[Row] = []

    def add(step: str, val: float, test: float | None = None, **columns: Any) -> None:
        text = f"Integer(width={columns.get('width')}, frac_width=4)"
        layers = {layer: {"input": text, "weight": text, "bias": None} for layer in LAYERS}
        quantize = {"class_path": "lightning_adls.transforms.Quantize"}
        recipe = [{**quantize, "init_args": {"layers": layers}}] if "width" in columns else []
        row = {"step": step, **COSTS, "seconds": 3.0, "recipe": recipe}
        row |= {"checkpoint": f"checkpoints/{step.replace('/', '_')}.ckpt", **columns}
        row["bits_per_weight"] = float(columns.get("width", 32))
        row |= {**accuracy("val", val, ROWS["val"]), **accuracy("test", test, ROWS["test"])}
        untrained: Any = row.get("val_accuracy_untrained")
        row |= measured("val_accuracy_untrained", untrained, ROWS["val"])
        rows.append(chosen(row, LAB1))
        if paired:
            answer(folder, "val", step, val)
            if test is not None:
                answer(folder, "test", step, test)

    add("float32/start", 0.86, 0.85, method="float32", training="finetune")
    add("float32/trained", 0.87, method="float32", training="qat")
    gains = {4: (-0.36, -0.1), 6: (-0.09, -0.01), 8: (0.0, 0.01), 16: (0.0, 0.01)}
    for width, (ptq, qat) in gains.items():
        for frac_width, observer in (("half", None), ("calibrated", "mse")):
            about_it: Row = {"method": "quantised", "width": width, "frac_width": frac_width}
            less = 1.0 if frac_width == "half" else 0.1
            for how, training, gain in (("ptq", "none", ptq), ("qat", "qat", qat)):
                best = (how, width, frac_width) == ("qat", 8, "half")
                add(
                    f"{how}/{frac_width}/{width}",
                    0.86 + less * gain + 0.002 * best,
                    0.845 if best else None,
                    **about_it,
                    observer=observer,
                    training=training,
                )
    source = "qat/half/8"
    inherited: Row = {"width": 8, "frac_width": "half", "source": source, "training": "retrain"}
    for method, schedule, sparsity in product(
        ("random", "l1-norm"), ("one_shot", "cubic"), (0.5, 0.9)
    ):
        loss = sparsity * (0.4 if method == "random" else 0.1)
        chosen_one = (method, schedule, sparsity) == ("l1-norm", "cubic", 0.5)
        add(
            f"pruned/{method}/{schedule}/{sparsity:g}/{source}",
            0.87 - loss,
            0.81 if chosen_one else None,
            **inherited,
            method=method,
            schedule=schedule,
            target_sparsity=sparsity,
            sparsity=sparsity,
            val_accuracy_untrained=0.8 - loss if schedule == "one_shot" else None,
        )
    add(
        f"removed/0.5/{source}",
        0.85,
        **inherited,
        method="structured",
        removed_share=0.5,
        speedup=1.6,
        speedup_p10=1.5,
        speedup_p90=1.7,
        val_accuracy_untrained=0.8,
    )
    by_step = {row["step"]: row for row in rows}
    results = {
        "float32": by_step["float32/start"],
        "quantised": by_step[source],
        "sparse": by_step[f"pruned/l1-norm/cubic/0.5/{source}"],
    }
    config = {"qat": {"epochs": 0.2}, "retrain": {"epochs": 0.2}, "tolerance": 0.06}
    return write(folder, config, rows, {**about("lab1"), "results": results})


def trials(
    study: str, values: Sequence[float | None], choices: Sequence[Row], choice: str, **more: Any
) -> list[Row]:
    """Rows of a study; None for a trial that was pruned."""
    best = running_best(values)
    top = max(range(len(values)), key=lambda n: values[n] or 0)
    return [
        {
            "study": study,
            **more,
            "trial": n + 1,
            "state": "pruned" if value is None else "complete",
            **measured("val_accuracy_before_compression", None, ROWS["val"]),
            **accuracy("val", 0.5 if value is None else value, ROWS["val"]),
            "value": 0.5 if value is None else value,
            **measured("running_best", best[n], ROWS["val"]),
            "val_divergence": None,
            "flips": None,
            **accuracy("test", values[n] if n == top else None, ROWS["test"]),
            **COSTS,
            "bits_per_weight": 4.0 + n,
            "size_mb": 0.2 + 0.1 * n,
            "seconds": 10.0,
            "checkpoint": f"{study}/trial-{n + 1:03d}.ckpt" if n == top else None,
            choice: choices[n],
        }
        for n, value in enumerate(values)
    ]


def lab2(folder: Path, seeds: Sequence[int] = (0, 1)) -> Path:
    drawn = random.Random(0)
    rows: list[Row] = []
    searches = [("plain", "random"), ("plain", "tpe"), ("aware", "tpe"), ("aware_retrained", "tpe")]
    for (kind, sampler), seed in product(searches, seeds):
        bonus = {"plain": 0.1, "aware": -0.05, "aware_retrained": 0.05}[kind]
        values = [0.7 + bonus + 0.1 * drawn.random() for _ in range(6)]
        choices = [
            {
                "num_hidden_layers": drawn.choice([1, 2]),
                "hidden_size": drawn.choice([32, 64]),
                "identities": [],
            }
            for _ in values
        ]
        name = f"{kind}/{sampler}/{seed}"
        about_it = {"search": kind, "sampler": sampler, "seed": seed}
        rows += trials(name, values, choices, "architecture", **about_it)
    models: dict[str, Row] = {}
    for model, kind, test in (
        *(("plain", "plain", 0.86), ("compressed", "plain", 0.6)),
        *(("aware", "aware", 0.7), ("aware_retrained", "aware_retrained", 0.8)),
    ):
        best = max(
            (row for row in rows if row["search"] == kind and row["sampler"] == "tpe"),
            key=lambda row: row["val_accuracy"],
        )
        models[model] = {k: best[k] for k in ("study", "trial", "architecture", "size_mb")}
        models[model] |= {
            **measured("val_accuracy_before_compression", None, ROWS["val"]),
            **accuracy("val", test + 0.01, ROWS["val"]),
            **accuracy("test", test, ROWS["test"]),
            **COSTS,
            "checkpoint": "best.ckpt",
        }
        step = f"{best['study']}/{best['trial']}"
        step = f"compressed/{step}" if model == "compressed" else step
        answer(folder, "val", step, test + 0.01)
        answer(folder, "test", step, test)
    samplers = {
        name: {
            "mean_best": 0.88,
            "trials_to_best": 3.0,
            "best_by_seed": {str(seed): 0.88 for seed in seeds},
        }
        for name in ("tpe", "random")
    }
    config = {"seeds": list(seeds), "trials": 6, "budget": {"epochs": 2}}
    return write(folder, config, rows, {**about("lab2"), "samplers": samplers, "models": models})


STUDIES = {
    "Full": 0.88,
    "Integer": 0.87,
    "Minifloat": 0.86,
    "Block": 0.875,
    "Log": 0.84,
    "MXInt": 0.872,
    "MXFP": 0.865,
    "Ternary": 0.7,
    "Binary": 0.6,
    "Mixed": 0.85,
}


def lab3(folder: Path) -> Path:
    drawn = random.Random(1)
    rows: list[Row] = []
    for study, top in STUDIES.items():
        count = 1 if study == "Full" else 8
        values: list[float | None] = [top - 0.1 * drawn.random() for _ in range(count)]
        if study == "Integer":
            values = [0.5, 0.5, None, 0.8, 0.5, 0.83, 0.87, 0.86]
        formats = [f"Integer(width={width}, frac_width=4)" for width in (8, 16)]
        recipes: list[Row] = [
            {
                layer: {
                    "input": None if study == "Full" else drawn.choice(formats),
                    "weight": None if study == "Full" else "MXInt(width=4, block_size=32)",
                    "bias": None,
                }
                for layer in LAYERS
            }
            for _ in values
        ]
        rows += trials(study, values, recipes, "recipe")
    results: dict[str, Row] = {}
    for study in STUDIES:
        own = [row for row in rows if row["study"] == study and row["state"] == "complete"]
        best = max(own, key=lambda row: row["val_accuracy"])
        results[study] = {k: v for k, v in best.items() if k not in ("study", "recipe", "state")}
        results[study] |= {
            "trials": len(own),
            "pruned": 0,
            "failed": 0,
            "best_trial": best["trial"],
        }
        answer(folder, "test", f"{study}/{best['trial']}", best["test_accuracy"])
    config = {
        "figures": {"task1_integer": ["Integer", "Full"], "running_best": list(STUDIES)},
        "studies": {name: [name] for name in STUDIES},
        "budget": {"epochs": 0.2},
        "trials": 8,
    }
    start = accuracy("val", 0.86, ROWS["val"])
    return write(folder, config, rows, {**about("lab3"), "start": start, "results": results})


def lab4(folder: Path) -> Path:
    """Of the parts ``attention``, ``mxint8`` and ``export`` on a CPU."""
    shared = {"device": "cpu", "dtype": "float32", "training": False, "error": None}
    records: list[Row] = []
    for experiment, tokens, mask, (target, factor) in product(
        ("forward", "forward+backward"),
        (64, 128),
        ("none", "padding"),
        (("naive", 2.0), ("sdpa", 1.0)),
    ):
        time = factor * tokens**2 / 1e4
        records.append(
            {
                "part": "attention",
                "experiment": experiment,
                "target": target,
                **shared,
                "variant": "eager float32",
                "tokens": tokens,
                "mask": mask,
                "batch": 2,
                "median_ms": time,
                "p10_ms": 0.9 * time,
                "p90_ms": 1.2 * time,
                "peak_mb": factor * tokens / 10,
                "max_relative_error": 1e-7,
                "speedup_over_first": 2.0 / factor,
            }
        )
    for operator, rate in (("copy", 10.0), ("quantize", 2.0), ("dequantize", 4.0)):
        records.append(
            {
                "part": "mxint8",
                "experiment": "operators",
                "target": operator,
                **shared,
                "variant": "eager float32",
                "shape": "768x768",
                "gb_per_s": rate,
                "median_ms": 1.0,
                "p10_ms": 0.9,
                "p90_ms": 1.1,
                "max_relative_error": None,
            }
        )
    for target, rate in (("float32", 1.0), ("packed", 1.5)):
        records.append(
            {
                "part": "mxint8",
                "experiment": "linear",
                "target": target,
                **shared,
                "variant": "eager float32",
                "shape": "768x768",
                "batch": 32,
                "gb_per_s": rate,
                "median_ms": rate,
                "p10_ms": 0.9 * rate,
                "p90_ms": 1.1 * rate,
                "max_relative_error": 1e-3,
            }
        )
    for kind, before, after in (
        *(("linear_weights", 4000, 0), ("packed_codes", 0, 1000), ("packed_exponents", 0, 31)),
        *(("embeddings", 2000, 2000), ("all", 6000, 3031)),
    ):
        records.append(
            {
                "part": "mxint8",
                "experiment": "memory",
                "target": kind,
                **shared,
                "device": "any",
                "bytes_before": before,
                "bytes_after": after,
            }
        )
    for target, flips in (("fake-quantised", None), ("packed", 0), ("ONNX", 2)):
        records.append(
            {
                "part": "export",
                "experiment": "export",
                "target": target,
                **shared,
                "rows": 1000,
                "largest_difference": None if flips is None else 1e-3 * flips,
                "flips": flips,
                "p_value": None if flips is None else 0.5 if flips else 1.0,
                "accuracy": 0.9,
                "standard_error": 0.0095,
                "bytes": 500_000,
            }
        )
    keys = dict.fromkeys(key for record in records for key in record)
    records = [{key: record.get(key) for key in keys} for record in records]
    compiling = {
        "backends": ["inductor"],
        "formats": [],
        "batch": 2,
        "tokens": 8,
        "few": 3,
        "lengths": [3],
        "multiples": [1],
        "image": 32,
    }
    attention = {"backends": [], "batch": 2, "heads": 2, "head_size": 4, "lengths": [64, 128]}
    config = {
        "compiling": compiling,
        "attention": {**attention, "backends": ["math"]},
        "mxint8": {"shapes": [[768, 768]], "batches": [32]},
        "export": {
            "format": "Integer(width=8)",
            "epochs": 3,
            "weights": None,
            "rows": 1000,
            "max_length": 64,
        },
    }
    return write(folder, config, records, {**about("lab4"), "results": records})


MAKE = {"lab0": lab0, "lab1": lab1, "lab2": lab2, "lab3": lab3, "lab4": lab4}
