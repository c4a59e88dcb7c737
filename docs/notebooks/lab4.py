# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 4: speed and memory
#
# What does `torch.compile` gain, what does fused attention save, and what are MXINT8 weights good
# for? It takes about ten minutes to read. Times depend on the machine: read your own.

# %%
# Where the package is not installed, such as on Colab: upload its wheel, and delete the first "# ".
# # !pip install -q lightning_adls-*.whl

# %%
from lightning_adls import quiet

quiet()  # no notices of each Trainer, and of each trial

# %%
from copy import deepcopy
from math import sqrt

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lightning_adls import Pack, bench, bert
from lightning_adls.figures import Point, draw_bars, draw_points
from lightning_adls.formats import MXInt
from lightning_adls.kernels import dequantize, quantize
from lightning_adls.transforms import memory

L.seed_everything(0, verbose=False)

# %% tags=["parameters"]
BACKEND = "inductor"  # it needs a compiler for C++; "aot_eager" needs none, and gains nothing
DEVICE = "cpu"  # or "cuda"
WIDTH, LAYERS, VOCABULARY = 256, 2, 30522  # of the network
LENGTHS = [64, 128, 256, 512]  # tokens
ROUNDS = 10  # calls that are timed
LEAST_BYTES = 50_000  # of what the last figure shows

# %% [markdown]
# ## Compiling
#
# A small BERT with random weights, four texts of 128 tokens.

# %%
network = bert(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    intermediate_size=4 * WIDTH,
).eval()
inputs = bench.token_ids(4, 128, vocab_size=VOCABULARY)
variants = [bench.Variant(), bench.Variant(BACKEND)]

# %% [markdown]
# ### The measurement that misleads
#
# Five calls, and their mean. The first one compiles.

# %%
few = [bench.first_calls(network, inputs, each, calls=5, device=DEVICE) for each in variants]
pd.DataFrame(few, index=[str(each) for each in variants]).round(1)

# %% [markdown]
# ### The right one
#
# `bench.measure` warms up, calls all variants in turn, and takes the median. It also compares
# what they compute, and says after how many steps the time for compiling is earned back.

# %%
rounds = bench.Rounds(timed=ROUNDS)
steady = bench.measure(network, inputs, variants, rounds=rounds, device=DEVICE)
shown = ["median_ms", "p10_ms", "p90_ms", "compile_ms", "speedup_over_eager"]
shown += ["break_even_steps", "max_relative_error"]
pd.DataFrame(steady).set_index("variant")[shown].T.round(7)

# %% [markdown]
# Both are true: the mean over n calls falls from the first to the second.

# %%
draw_points(
    "lab4_compile.png",
    {
        record["variant"]: [
            Point(n, (record["first_call_ms"] + (n - 1) * record["median_ms"]) / n)
            for n in (10**power for power in range(6))
        ]
        for record in steady
    },
    title="Mean time of a call, the first included",
    x_label="calls",
    y_label="ms",
    log=True,
)

# %% [markdown]
# ## Fused attention
#
# The formula keeps a matrix of scores, tokens times tokens. torch's fused attention computes it
# block by block, and never holds it.


# %%
def formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of the scores, times the values."""
    return (query @ key.transpose(-2, -1) / sqrt(query.shape[-1])).softmax(-1) @ value


attentions = {"formula": formula, "fused": scaled_dot_product_attention}
records = [
    {**record, "tokens": tokens}
    for tokens in LENGTHS
    for record in bench.measure(
        attentions,
        list(torch.randn(3, 2, 4, tokens, 64)),  # query, key and value: batch 2, 4 heads of 64
        [bench.Variant()],
        rounds=rounds,
        device=DEVICE,
    )
]
attention = pd.DataFrame(records)[["target", "tokens", "median_ms", "peak_mb"]]
attention.pivot(index="tokens", columns="target").round(3)

# %%
draw_points(
    "lab4_attention.png",
    {
        name: [Point(row.tokens, row.peak_mb) for row in of_one.itertuples()]
        for name, of_one in attention.groupby("target")
    },
    title="Peak memory of attention",
    x_label="tokens",
    y_label="MB",
    log=True,
)

# %% [markdown]
# ## MXINT8
#
# A weight in MXINT8 is a signed byte per element, and one exponent of a byte per 32 of them.

# %%
weight = network.get_parameter("bert.encoder.layer.0.intermediate.dense.weight").detach()
codes, exponents = quantize(weight)
bits = 8 * (codes.nbytes + exponents.nbytes) / weight.numel()
print(codes.dtype, tuple(codes.shape), exponents.dtype, tuple(exponents.shape), bits, "bits")

# %% [markdown]
# Unpacked, they are what the format rounds to, bit for bit.

# %%
unpacked = dequantize(codes, exponents)
print("as the format:", torch.equal(unpacked, MXInt(width=8)(weight)))
print(f"largest error: {(unpacked - weight).abs().max():.1e} of {weight.abs().max():.1e}")

# %% [markdown]
# `Pack` does it to all linear layers of a network. `memory` counts bytes, by what they are.

# %%
packed = deepcopy(network)
Pack()(packed)
sizes = {"float32": memory(network), "packed": memory(packed)}
results = pd.DataFrame(sizes)
results.loc["all"] = results.sum()
results

# %% [markdown]
# Linear weights shrink by (32 - 8.25) / 32 = 74 %. The model shrinks by less: what is looked up
# and not multiplied, the embeddings, stays as it was.

# %%
draw_bars(
    "lab4_memory.png",
    {
        name: {kind.replace("_", " "): n / 1e6 for kind, n in kinds.items() if n > LEAST_BYTES}
        for name, kinds in sizes.items()
    },
    title="What a BERT takes in memory",
    y_label="MB",
)

# %% [markdown]
# ## Try it
#
# - **Training.** `bench.measure(..., training=True)` measures whole steps. Why does compiling
#   gain less?
# - **Formats.** Compile a network that `Quantize({"*": "MXInt(width=8)"})` has changed. Why does
#   it gain more?
# - **Another type.** Add `bench.Variant(dtype="bfloat16")`. What is its error?
# - **BERT-base.** Set `WIDTH, LAYERS = 768, 12`. What share of its memory does packing save?
# - **A GPU.** Set `DEVICE = "cuda"`. From how many tokens on is fused attention faster?
#
# Where to look: [Lab 4](../labs/lab4.md) answers with what was measured.
