# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 3: mixed-precision search
#
# Each layer of a BERT gets a format of its own. Which layer needs more bits? A search tries
# recipes; a plan computes one from scores. It takes about ten minutes to read.

# %%
# Where the package is not installed, such as on Colab: upload its wheel, and delete the first "# ".
# # !pip install -q lightning_adls-*.whl

# %%
from lightning_adls import quiet

quiet()  # no notices of each Trainer, and of each trial

# %%
from copy import deepcopy
from pathlib import Path

import lightning as L
import pandas as pd
from torch import nn

from lightning_adls import (
    QuantizationAwareTraining,
    Quantize,
    TextClassifier,
    TextData,
    bert,
    check_plan,
    plan,
    sensitivity,
)
from lightning_adls.figures import (
    Candidate,
    Stairs,
    draw_format_map,
    draw_front,
    draw_heat_map,
    draw_steps,
)
from lightning_adls.search import Budget, FormatSpace, Objective, best_curve, run_study, trial_rows
from lightning_adls.significance import standard_error
from lightning_adls.transforms import bits_per_weight

L.seed_everything(0, verbose=False)

# %% tags=["parameters"]
ROWS = None  # reviews to train on; None is all 7,200
VAL_ROWS = 800  # to validate on
WIDTH = 64  # of the network
START_EPOCHS, MORE_EPOCHS = 2, 0.2
TRIALS = 25
WIDTHS = [2, 3, 4, 6, 8]  # bits
BUDGETS = [2.4, 2.7, 3, 3.5, 4, 5, 6]  # bits per weight

# %% [markdown]
# ## A trained model
#
# All that follows starts from this one. A `Budget` is what a training may spend; it makes the
# Trainer.


# %%
def train(module: L.LightningModule, epochs: float, *callbacks: L.Callback) -> float:
    """Train in place, and give the validation accuracy."""
    trainer = Budget(epochs, reports=1).trainer(len(data.train_dataloader()), callbacks=callbacks)
    trainer.fit(module, data)
    return trainer.callback_metrics["val/accuracy"].item()


def accuracy(module: L.LightningModule) -> float:
    """Of the validation split, without training."""
    return Budget().trainer(1).validate(module, data, verbose=False)[0]["val/accuracy"]


# %%
data = TextData(max_length=64, limit_train=ROWS, limit_val=VAL_ROWS)
data.prepare_data()
data.setup()
network = bert(
    vocab_size=data.vocab_size,
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    max_position_embeddings=64,
)
start = TextClassifier(network, learning_rate=2e-3)
reached = train(start, START_EPOCHS)
rows = data.row_counts["val"]
print(f"float32: accuracy {reached:.3f}")

# %% [markdown]
# ## A search
#
# Each linear layer chooses the formats of its input, weight and bias. A space says from what: a
# template, and the values of its parameters.

# %%
layers = [name for name, layer in start.named_modules() if isinstance(layer, nn.Linear)]
ranges = {"width": WIDTHS, "frac_width": [1, 2, 3, 4, 6]}
spaces = {
    name: FormatSpace.from_templates(layers, {name: name}, ranges) for name in ("Integer", "MXInt")
}
for name, space in spaces.items():
    print(f"{name}: {space.points:.1e} recipes for {len(layers)} layers")

# %% [markdown]
# A trial takes the trained model, rounds it by a recipe and validates it. Nothing is trained
# here: that keeps a trial short.


# %%
def build(recipe: Quantize) -> L.LightningModule:
    """The trained model, rounded."""
    module = deepcopy(start)
    recipe(module)
    return module


def search(name: str) -> pd.DataFrame:
    """The trials of a study."""
    folder = Path("lightning_logs/notebook3", name)
    objective = Objective(spaces[name], build, data, Budget(), folder, train=False)
    found = run_study(objective, TRIALS)
    curves[name] = Stairs(best_curve(found.study))
    return pd.DataFrame(trial_rows({name: found.study}))


curves: dict[str, Stairs] = {}
trials = pd.concat([search(name) for name in spaces], ignore_index=True)
trials[["study", "trial", "value", "running_best", "bits_per_weight"]].tail(5).round(3)

# %%
draw_steps(
    "lab3_best.png",
    curves,
    title="Best validation accuracy so far",
    x_label="trials",
    y_label="validation accuracy",
    compare={"float32": (reached, standard_error(reached, rows))},
)

# %% [markdown]
# ## Scores instead of trials
#
# How much does the loss rise if this layer is rounded to that format? `sensitivity` answers for
# all layers and formats by one forward and one backward pass per sample.

# %%
formats = [f"MXInt(width={width})" for width in WIDTHS]
scores = sensitivity(start, data.calibration_batches(2), formats)
draw_heat_map(
    "lab3_sensitivity.png",
    scores.by_format("weight"),
    title="What rounding a weight costs",
    label="rise of the loss, in nats",
)

# %% [markdown]
# Fewer bits cost more, and some layers lose far more than others by the same bits. A plan can use
# that.

# %% [markdown]
# ## A plan
#
# `plan` gives each layer a format: the least sum of scores within a budget. It is exact, and runs
# nothing.

# %%
three = plan(start, scores, formats, bits_per_weight=3)
print(three)
draw_format_map("lab3_plan.png", three.recipe.to_dict(), title="The plan for three bits per weight")

# %% [markdown]
# How far can it be trusted? `check_plan` measures it, and random plans beside what was predicted.

# %%
print(check_plan(start, data.calibration_batches(4)[2:], scores, three, plans=10))

# %% [markdown]
# ## Accuracy over bits
#
# Of MXInt: plans for several budgets, the trials of the search, and the same width for all layers.


# %%
def candidate(group: str, recipe: Quantize) -> Candidate:
    """What a recipe comes to."""
    module = build(recipe)
    found = accuracy(module)
    return Candidate(group, bits_per_weight(module), found, standard_error(found, rows))


plans = [
    candidate("plan", plan(start, scores, formats, bits_per_weight=bits).recipe) for bits in BUDGETS
]
alike = [candidate(f"MXInt({width})", Quantize({"*": f"MXInt(width={width})"})) for width in WIDTHS]
tried = [
    Candidate("searched", row.bits_per_weight, row.value)
    for row in trials[trials.study == "MXInt"].itertuples()
]
draw_front(
    "lab3_front.png",
    [*tried, *plans],
    title="Accuracy over bits",
    x_label="bits per weight",
    y_label="validation accuracy",
    compare={"float32": reached},
    references=alike,
)

# %% [markdown]
# ## Train the plan on
#
# A plan is a recipe: give it to `QuantizationAwareTraining`.

# %%
trained = deepcopy(start)
more = train(trained, MORE_EPOCHS, QuantizationAwareTraining(three.recipe))
results = pd.DataFrame(
    {
        "bits per weight": [32, bits_per_weight(trained), bits_per_weight(trained)],
        "accuracy": [reached, accuracy(build(three.recipe)), more],
    },
    index=["float32", "plan for 3 bits", "plan for 3 bits, trained on"],
)
results.round(3)

# %% [markdown]
# ## Try it
#
# - **Inputs apart.** Inputs take no storage: what does a plan choose, if one of its formats is
#   `{"input": [...], "weight": [...]}`, two lists to choose from freely?
# - **A budget for the search.** `Objective(..., limits=Limits(bits_per_weight=3))` leaves out
#   what is above. How many trials does the search need to come near the plan?
# - **Trials that train.** Drop `train=False`, and give `Budget(0.1)`. Which recipes gain most?
# - **Groups.** `plan(..., groups=[["*.query", "*.key", "*.value"]])` gives the three the same
#   format. What does that cost?
#
# Where to look: [Lab 3](../labs/lab3.md) has all this on IMDB, [The smallest model that loses
# nothing](../budget.md) how plans are made.
