# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 1: quantisation and pruning
#
# A trained BERT is rounded to fixed point of fewer and fewer bits, without training (PTQ) and
# with it (QAT). Then weights are set to zero. It takes about ten minutes to read.

# %%
# Where the package is not installed, such as on Colab: upload its wheel, and delete the first "# ".
# # !pip install -q lightning_adls-*.whl

# %%
from lightning_adls import quiet

quiet()  # no notices of each Trainer, and of each trial

# %%
from copy import deepcopy

import lightning as L
import pandas as pd
import torch

from lightning_adls import (
    Prune,
    QuantizationAwareTraining,
    Quantize,
    TextClassifier,
    TextData,
    bert,
    calibrate,
    summarize,
)
from lightning_adls.budget import Budget
from lightning_adls.figures import Point, draw_points
from lightning_adls.formats import Integer
from lightning_adls.significance import standard_error

L.seed_everything(0, verbose=False)

# %% tags=["parameters"]
ROWS = None  # reviews to train on; None is all 7,200
VAL_ROWS = 800  # to validate on
WIDTH = 64  # of the network
START_EPOCHS, MORE_EPOCHS = 2, 0.2
WIDTHS = [2, 3, 4, 5, 6, 8, 12, 16]  # bits
SPARSITIES = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]

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


def point(x: float, found: float) -> Point:
    """An accuracy over x, with its standard error."""
    return Point(x, found, standard_error(found, data.row_counts["val"]))


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
print(f"float32: accuracy {reached:.3f}")

# %% [markdown]
# ## What a format does
#
# `Integer(width=4, frac_width=2)` is fixed point: four bits, two of them behind the point. A
# format is a function from numbers to numbers. It has 16 values here, a quarter apart.

# %%
Integer(width=4, frac_width=2)(torch.tensor([0.1, 0.13, -0.4, 1.0, 3.0, -3.0]))

# %% [markdown]
# ## Why half of the bits behind the point?
#
# The lab puts half of the bits there. That is simple, and too coarse for few bits: most weights
# of a network are small. Here is what becomes of one layer.

# %%
weight = network.get_parameter("bert.encoder.layer.0.intermediate.dense.weight").detach()
rows = []
for width in WIDTHS:
    rounded = Integer(width=width, frac_width=width // 2)(weight)
    rows.append(
        {
            "width": width,
            "step": 2.0 ** -(width // 2),
            "rounded to zero": (rounded == 0).float().mean().item(),
            "mean error": (rounded - weight).abs().mean().item(),
        }
    )
print(f"mean magnitude of a weight: {weight.abs().mean():.3f}")
zeros = pd.DataFrame(rows).set_index("width")
zeros.round(4)

# %% [markdown]
# `calibrate` looks at a few batches, and chooses the point for each tensor by the least squared
# error.

# %%
batches = data.calibration_batches(4)
recipe = Quantize({"*": "Integer(width=4)"})
calibrated = calibrate(start, recipe, batches, forward=start.logits)
pd.DataFrame(calibrated.to_dict()).T.head(6)

# %% [markdown]
# ## Without training: PTQ
#
# `Quantize` swaps the linear layers for ones that round their input, weight and bias. Nothing is
# trained. `half` is the rule of the lab.

# %%
ptq: dict[str, list[Point]] = {"PTQ, half": [], "PTQ, calibrated": []}
for width in WIDTHS:
    half = deepcopy(start)
    Quantize({"*": f"Integer(width={width}, frac_width={width // 2})"})(half)
    ptq["PTQ, half"].append(point(width, accuracy(half)))

    chosen = deepcopy(start)
    recipe = Quantize({"*": f"Integer(width={width})"})
    calibrate(start, recipe, batches, forward=start.logits)(chosen)
    ptq["PTQ, calibrated"].append(point(width, accuracy(chosen)))
print(summarize(half))

# %% [markdown]
# ## With training: QAT
#
# The callback quantises before the first step. Gradients pass straight through the rounding.
# Training longer helps float32, too: so float32 trains on for as long, to compare with.

# %%
qat = []
for width in WIDTHS:
    half = deepcopy(start)
    recipe = Quantize({"*": f"Integer(width={width}, frac_width={width // 2})"})
    qat.append(point(width, train(half, MORE_EPOCHS, QuantizationAwareTraining(recipe))))

longer = train(deepcopy(start), MORE_EPOCHS)

# %%
draw_points(
    "lab1_widths.png",
    {**ptq, "QAT, half": qat},
    title="Fixed point of few bits",
    x_label="width in bits",
    y_label="validation accuracy",
    compare={"float32": reached, "float32, trained on": longer},
)

# %% [markdown]
# - Where half is too coarse, more than half of the weights are zero: look at the table above.
# - Calibrated, the same number of bits is enough. What failed was the place of the point.
# - QAT gets back a part of what half lost.

# %% [markdown]
# ## Pruning
#
# `Prune` sets weights to zero by a mask that stays: the smallest (`l1`), or any (`random`). Then
# the model trains on.

# %%
pruned: dict[str, list[Point]] = {}
for method in ("random", "l1"):
    for sparsity in SPARSITIES:
        model = deepcopy(start)
        Prune(sparsity, method=method)(model)
        pruned.setdefault(f"{method}, untrained", []).append(point(sparsity, accuracy(model)))
        pruned.setdefault(f"{method}, trained on", []).append(
            point(sparsity, train(model, MORE_EPOCHS))
        )

# %%
draw_points(
    "lab1_sparsities.png",
    pruned,
    title="Pruned, and trained on",
    x_label="sparsity",
    y_label="validation accuracy",
    compare={"float32": reached, "chance": 0.5},
)

# %%
results = pd.DataFrame(
    {name: {p.x: p.y for p in curve} for name, curve in {**ptq, "QAT, half": qat}.items()}
).rename_axis("width")
results.round(3)

# %% [markdown]
# ## Try it
#
# - **Weights alone.** Give `Quantize({"*": {"weight": "Integer(width=4, frac_width=2)"}})`. Is it
#   the weights or the inputs that fail first?
# - **Learned steps.** Train `{"*": {"input": "LearnedInteger(width=3)", "weight":
#   "LearnedInteger(width=3)"}}` by `QuantizationAwareTraining`. Does a step that trains beat one
#   that is calibrated?
# - **Another format.** `"MXInt(width=4)"` shares an exponent among 32 numbers. Why does it need
#   no calibration?
# - **Both.** Prune the model of four bits. Which share of its weights can go?
#
# Where to look: [Lab 1](../labs/lab1.md) has all this on IMDB, [Number formats](../formats.md)
# defines each format.
