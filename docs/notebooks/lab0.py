# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 0: full fine-tuning and LoRA
#
# A BERT is fine-tuned twice from the same start: in full, and by small adapters beside frozen
# weights. Then the adapters are merged into the weights. It takes about ten minutes to read, and
# less to run on a CPU.

# %%
# Where the package is not installed, such as on Colab: upload its wheel, and delete the first "# ".
# # !pip install -q lightning_adls-*.whl peft

# %%
from lightning_adls import quiet

quiet()  # no notices of each Trainer, and of each trial

# %%
from copy import deepcopy

import lightning as L
import pandas as pd
import torch

from lightning_adls import LoRA, TextClassifier, TextData, bert, reviews
from lightning_adls.budget import Budget
from lightning_adls.figures import Point, draw_bars, draw_points
from lightning_adls.significance import standard_error
from lightning_adls.transforms.lora import merge_lora, parameter_counts

L.seed_everything(0, verbose=False)

# %% tags=["parameters"]
ROWS = None  # reviews to train on; None is all 7,200
VAL_ROWS = 800  # to validate on
WIDTH = 64  # of the network
START_EPOCHS, EPOCHS = 1, 2

# %% [markdown]
# ## The data
#
# The reviews are generated. No single word settles whether one is praise: "not dull" is. Three
# labels in a hundred are wrong, so no model can get more than 97 % right.

# %%
pd.DataFrame(reviews.make(rows=5, seed=1), columns=["text", "label"])

# %% [markdown]
# `TextData` reads, tokenises and batches them. It is a LightningDataModule like any other.

# %%
data = TextData(max_length=64, limit_train=ROWS, limit_val=VAL_ROWS)
data.prepare_data()
data.setup()
print(data.row_counts, "rows;", data.vocab_size, "words;", data.class_names)

# %% [markdown]
# ## The network
#
# A BERT of two layers. `TextClassifier` is the LightningModule around it.

# %%
network = bert(
    vocab_size=data.vocab_size,
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    max_position_embeddings=64,
)
module = TextClassifier(network, learning_rate=2e-3)
parts = {
    "classifier": network.get_submodule("classifier"),
    **dict(network.get_submodule("bert").named_children()),
}
sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
pd.DataFrame({"parameters": sizes})

# %% [markdown]
# ## Training
#
# A `Budget` is what a training may spend; it makes a Trainer of Lightning, which trains the
# module. `Curve` remembers the accuracy of each validation.


# %%
class Curve(L.Callback):
    """Remembers the accuracy of each validation, by the number of steps."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        accuracy = trainer.callback_metrics["val/accuracy"].item()
        error = standard_error(accuracy, data.row_counts["val"])
        self.points.append(Point(trainer.global_step, accuracy, error))


def train(module: L.LightningModule, epochs: int) -> list[Point]:
    """Train in place."""
    curve = Curve()
    budget = Budget(epochs, reports=4 * epochs)
    budget.trainer(len(data.train_dataloader()), callbacks=[curve]).fit(module, data)
    return curve.points


# %% [markdown]
# Adapters beside random weights learn next to nothing: there is no base to adapt. With no
# pre-trained checkpoint at hand, one epoch of training makes the start of both.

# %%
before = train(module, START_EPOCHS)
print(f"the start: accuracy {before[-1].y:.3f}")

# %% [markdown]
# ### In full
#
# All parameters go on.

# %%
full = deepcopy(module)
curves = {"full": train(full, EPOCHS)}

# %% [markdown]
# ### By adapters
#
# `LoRA` freezes the network. Each layer that it matches gets a product of two thin matrices
# beside its weight: `W x + alpha / rank * B A x`. Only `A`, `B` and the head are trained. They
# take a higher learning rate.

# %%
adapted = TextClassifier(
    deepcopy(module.model),
    [LoRA(layers=("*.query", "*.value"), rank=8, alpha=16)],
    learning_rate=5e-3,
)
curves["LoRA"] = train(adapted, EPOCHS)

# %%
draw_points(
    "lab0_curves.png",
    curves,
    title="Full fine-tuning and LoRA from the same start",
    x_label="training steps",
    y_label="validation accuracy",
    compare={"start": before[-1].y, "chance": 0.5},
)

# %% [markdown]
# ## What is trained

# %%
counts = {name: parameter_counts(each) for name, each in [("full", full), ("LoRA", adapted)]}
draw_bars(
    "lab0_parameters.png",
    {"trainable": {name: count.trainable for name, count in counts.items()}},
    title="Parameters that the training changes",
    y_label="parameters",
    log=True,
)

# %% [markdown]
# ## Merging
#
# `W + alpha / rank * B A` is a matrix like `W`. Once merged the adapters cost nothing. The logits
# stay the same but for the rounding of float32.

# %%
batch = next(iter(data.val_dataloader()))
adapted.eval()
with torch.no_grad():
    logits = adapted.logits(batch)
    merge_lora(adapted.model)
    change = (adapted.logits(batch) - logits).abs().max().item()
print(f"largest change of a logit: {change:.1e}, of {logits.abs().max():.2f}")

# %%
results = pd.DataFrame(
    {
        "accuracy": {name: points[-1].y for name, points in curves.items()},
        "trainable": {name: count.trainable for name, count in counts.items()},
        "of": {name: count.total for name, count in counts.items()},
    }
)
results.round(3)

# %% [markdown]
# ## Try it
#
# - **Rank 1, and 32.** How does the accuracy change, how the trainable parameters? See
#   `LoRA(rank=...)`.
# - **All layers.** Give `layers=("bert.encoder.*",)`. Which helps more, a higher rank or more
#   layers?
# - **No start.** Set `START_EPOCHS` to as little as you can. Which of the two suffers more?
# - **Freeze in another way.** Call `freeze(full.model, ["bert.embeddings.*"])` of
#   `lightning_adls.transforms.lora` before the training. How much of the distance between the two
#   curves is that?
#
# Where to look: [Lab 0](../labs/lab0.md) has all this on IMDB.
