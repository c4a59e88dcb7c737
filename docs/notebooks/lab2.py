# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 2: architecture search
#
# How deep and how wide should a BERT be? Three samplers answer with the same few trials: at
# random, along a grid, and by TPE, which learns from the trials so far. It takes about ten
# minutes to read.

# %%
# Where the package is not installed, such as on Colab: upload its wheel, and delete the first "# ".
# # !pip install -q lightning_adls-*.whl

# %%
from lightning_adls import quiet

quiet()  # no notices of each Trainer, and of each trial

# %%
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pandas as pd
from optuna.samplers import TPESampler

from lightning_adls import Prune, Quantize, TextClassifier, TextData, bert
from lightning_adls.figures import Candidate, Stairs, draw_front, draw_steps
from lightning_adls.search import (
    Architecture,
    ArchitectureSpace,
    Budget,
    Objective,
    SamplerFactory,
    best_curve,
    run_study,
    trial_rows,
)
from lightning_adls.significance import standard_error

L.seed_everything(0, verbose=False)

# %% tags=["parameters"]
ROWS = None  # reviews to train on; None is all 7,200
VAL_ROWS = 800  # to validate on
TRIALS = 10  # of each sampler
STARTUP_TRIALS = 4  # of TPE, drawn at random
EPOCHS = 1  # of each trial

# %% [markdown]
# ## What there is to choose
#
# A space lists the values of each dimension. This one has 81 architectures.

# %%
space = ArchitectureSpace(
    num_hidden_layers=[1, 2, 3],
    num_attention_heads=[1, 2, 4],
    hidden_size=[16, 32, 64],
    intermediate_size=[32, 64, 128],
)
print(space.points, "architectures")

# %% [markdown]
# ## What a trial does
#
# It builds a module by its choice, trains it within the budget and validates it. All trials have
# the same seed and the same batches: they differ in their choice alone.

# %%
data = TextData(max_length=64, limit_train=ROWS, limit_val=VAL_ROWS)
data.prepare_data()
make = partial(bert, vocab_size=data.vocab_size, max_position_embeddings=64, dropout=0.0)


def build(architecture: Architecture) -> TextClassifier:
    """A fresh module of this architecture."""
    return TextClassifier(architecture.build(make), learning_rate=2e-3)


objective = Objective(
    space, build, data, Budget(EPOCHS, reports=1), Path("lightning_logs/notebook2")
)

# %% [markdown]
# ## Three samplers

# %%
samplers: dict[str, str | SamplerFactory] = {
    "grid": "grid",
    "random": "random",
    "tpe": partial(TPESampler, n_startup_trials=STARTUP_TRIALS, multivariate=False),
}
objectives = {name: replace(objective, folder=objective.folder / name) for name in samplers}
searches = {
    name: run_study(each, TRIALS, sampler=samplers[name]) for name, each in objectives.items()
}
trials = pd.DataFrame(trial_rows({name: each.study for name, each in searches.items()}))
trials[["study", "trial", "value", "running_best", "parameters", "seconds"]].round(3)

# %% [markdown]
# The best so far, over the trials. TPE draws its first trials as `random` does. Then it proposes
# what is like the good ones.

# %%
rows = data.row_counts["val"]
curves = {name: best_curve(each.study) for name, each in searches.items()}
draw_steps(
    "lab2_samplers.png",
    {
        name: Stairs(curve, error=standard_error(curve[-1][1], rows))
        for name, curve in curves.items()
    },
    title="Best validation accuracy so far",
    x_label="trials",
    y_label="validation accuracy",
    compare={"chance": 0.5},
)

# %% [markdown]
# ## What size buys
#
# All trials over their number of parameters. The stairs are the front: what no smaller model
# beats.

# %%
draw_front(
    "lab2_sizes.png",
    [
        Candidate(row.study, row.parameters, row.value, standard_error(row.value, rows))
        for row in trials.itertuples()
        if row.state == "complete"
    ],
    title="Accuracy over size",
    x_label="parameters",
    y_label="validation accuracy",
    log=True,
)

# %% [markdown]
# ## What survives compression
#
# The best model in float32 need not be the best of four bits with 70 % of its weights pruned. An
# objective that compresses judges the model after it.


# %%
def compress(module: L.LightningModule) -> None:
    """Four bits, and 70 % zeros."""
    Quantize({"*": "MXInt(width=4)"})(module)
    Prune(0.7)(module)


judging = replace(objective, compress=compress, folder=objective.folder / "aware")
aware = run_study(judging, TRIALS, sampler="random")
best = searches["random"].best
assert best is not None
assert aware.best is not None
plain = objectives["random"].load(best)
compress(plain)

# %%
after = Budget().trainer(1).validate(plain, data, verbose=False)[0]["val/accuracy"]
results = pd.DataFrame(
    {
        "best in float32": {"before": best.value, "after": after, **best.user_attrs["choice"]},
        "best compressed": {
            "before": aware.best.user_attrs["before_compression"],
            "after": aware.best.value,
            **aware.best.user_attrs["choice"],
        },
    }
)
results

# %% [markdown]
# ## Try it
#
# - **More trials.** From how many on is TPE ahead of `random`? One seed says little: give
#   `run_study` a `seed`, and look at three.
# - **Layers left out.** Give the space `identities="search"`. Which layers can go? (`grid` cannot
#   do that.)
# - **Trained again.** Give the last objective `retrain=Budget(0.25)`. How much comes back?
# - **Size as an objective.** `Objective(..., minimise=["size_mb"])` looks for the front itself;
#   take `sampler=optuna.samplers.NSGAIISampler`.
#
# Where to look: [Lab 2](../labs/lab2.md) has all this on IMDB, [Searching](../search.md) how a
# search goes on after a stop.
