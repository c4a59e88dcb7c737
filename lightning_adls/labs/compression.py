"""Steps of a run that make a model smaller: quantise it, prune it, remove parts of it.

Each finds a model by the name of its step, and leaves another one. What a figure or a choice needs
to know of a step stands in its row, not in its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal

from lightning_adls import bench
from lightning_adls.budget import Budget
from lightning_adls.callbacks import Cubic, Pruning
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.report import Row
from lightning_adls.transforms import Prune, PruneStructured, Quantize, calibrate
from lightning_adls.transforms.flops import flops_per_sample

Observer = Literal["minmax", "percentile", "mse"]
Schedule = Literal["one_shot", "cubic"]


# What does a step: called with its run, in whatever process.
Work = Callable[[ModelRun], Row]


def quantise(
    name: str, recipe: Quantize, budget: Budget, hows: Sequence[str], **about: Any
) -> dict[str, Work]:
    """Steps that quantise the starting model, without training (``ptq``) and with it (``qat``).

    Args:
        name: Of the recipe, within the steps' names.
        recipe: The number formats.
        budget: Of the training; its precision is that of the judgement.
        hows: ``ptq``, ``qat`` or both.
        about: Goes into the rows, beside ``how``.
    """

    def work(run: ModelRun, how: str) -> Row:
        do = run.judge if how == "ptq" else run.train
        row = do(f"{how}/{name}", run.task.build(recipe), budget, [recipe])
        return {**row, **about, "how": how}

    return {f"{how}/{name}": partial(work, how=how) for how in hows}


def calibrated(
    run: ModelRun, name: str, recipe: Quantize, observer: Observer, batches: int
) -> Quantize:
    """The recipe with a fraction width for each tensor, chosen once, on training batches."""

    def work() -> Row:
        module, observed = run.task.build(), run.task.texts.calibration_batches(batches)
        chosen = calibrate(module.model, recipe, observed, forward=module.logits, observer=observer)
        return {"recipe": chosen.to_dict()}

    return Quantize(run.step(f"calibrated/{name}", work)["recipe"])


def prune(
    source: str, how: Prune, schedule: Schedule, budget: Budget, method: str
) -> dict[str, Work]:
    """A step that prunes the model of the step ``source`` and trains it again, or meanwhile.

    Args:
        source: Step of the model that is pruned.
        how: What is pruned, and how much.
        schedule: ``one_shot`` before the training, or ``cubic``, in steps during it.
        budget: Of the training.
        method: Name of what is pruned, in the step's name.
    """
    step = f"pruned/{method}/{schedule}/{how.sparsity:g}/{source}"
    about = {"pruned_from": source, "method": method, "schedule": schedule, "target": how.sparsity}

    def work(run: ModelRun) -> Row:
        module, transforms = run.module(source), run.transforms_of(source)
        if schedule == "cubic":
            none = replace(how, sparsity=0.0)  # the input's features, no weight yet
            none(module.model)
            gradual = Pruning(Cubic(how.sparsity), how.method, how.scope, seed=how.seed)
            return {**run.train(step, module, budget, [*transforms, none], [gradual]), **about}
        how(module.model)
        untrained = run.task.validate(module, budget)
        row = run.train(step, module, budget, [*transforms, how])
        return {**row, **about, "accuracy_untrained": untrained}

    return {step: work}


def remove(run: ModelRun, source: str, share: float, budget: Budget) -> None:
    """Remove a share of attention heads and neurons, and train what is left.

    It takes times, which other steps would disturb: a step by itself.
    """
    step = f"removed/{share:g}/{source}"

    def work() -> Row:
        whole, module = run.module(source), run.module(source)
        smaller = PruneStructured(heads=share, neurons=share)
        smaller(module.model)
        untrained = run.task.validate(module, budget)
        row = run.train(step, module, budget, [*run.transforms_of(source), smaller])
        batches = [
            {name: batch[name] for name in ("input_ids", "attention_mask")}
            for batch in islice(run.task.texts.val_dataloader(), 4)
        ]
        faster = bench.speedup(whole.model, module.model, batches).ratio
        tokens = run.task.texts.max_length
        return {
            **row,
            "removed_from": source,
            "share": share,
            "accuracy_untrained": untrained,
            "flops_before": flops_per_sample(whole.model, tokens),
            "flops": flops_per_sample(module.model, tokens),
            "speedup": round(faster.median, 3),
            "speedup_p10": round(faster.p10, 3),
            "speedup_p90": round(faster.p90, 3),
        }

    run.step(step, work)
