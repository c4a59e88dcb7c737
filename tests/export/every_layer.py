"""One network with a layer of each format and kind: one export for all, which takes seconds."""

from typing import Any

import torch
from samples import PAIRS, call
from torch import Tensor, nn

from lightning_adls.formats import NumberFormat
from lightning_adls.transforms import Prune, Quantize

FEATURES = 768
INTEGERS = (
    "Integer(width=8, frac_width=5)",
    "Integer(width=4, frac_width=3)",
    "Integer(width=2, frac_width=1)",
    "Integer(width=12, frac_width=8)",
    "Integer(width=8, frac_width=6, signed=False)",
    "Integer(width=3, frac_width=2, signed=False)",
    "Integer(width=6, frac_width=3, rounding='floor')",
    "LearnedInteger(width=8)",
    "LearnedInteger(width=3)",
    "LearnedInteger(width=7, signed=False)",
    "LearnedInteger(width=11)",
)
OTHERS = (
    *(text for text in NumberFormat.classes if text not in ("Integer", "LearnedInteger")),
    *("Integer(width=24, frac_width=16)", "Binary(scale='per_channel')", "MXInt(width=4)"),
)
KINDS = ("Integer(width=8, frac_width=6)", "LearnedInteger(width=4)")


class Every(nn.Module):
    """Its inputs are rows of features, then one for each kind of layer; an output for each layer.

    Attributes:
        names: Of the outputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formats = nn.ModuleList(nn.Linear(40, 8) for _ in (*INTEGERS, *OTHERS))
        self.inputs = nn.ModuleList(nn.Linear(40, 40, bias=False) for _ in INTEGERS)
        for parameter in self.inputs.parameters():
            nn.init.eye_(parameter)
        self.full = nn.Linear(FEATURES, 4)
        nn.init.constant_(self.full.weight, 9.0)
        self.plain = nn.Linear(40, 3)
        self.fine = nn.Linear(40, 64)
        with torch.no_grad():  # rows of many exponents
            self.fine.weight.mul_(torch.logspace(-2, 2, 64)[:, None])
        self.kinds = nn.ModuleList()
        self.examples: list[Tensor] = []
        self.names = [
            *(f"formats {text}" for text in (*INTEGERS, *OTHERS)),
            *(f"inputs {text}" for text in INTEGERS),
            *("full", "plain", "fine"),
        ]
        for kind, make in PAIRS.items():
            layer, x = make()
            self.examples.append(torch.cat([x, x])[:3])
            self.names.append(f"{kind} {KINDS[len(self.kinds) % 2]}")
            self.kinds.append(layer)

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        outputs = [layer(x) for layer in (*self.formats, *self.inputs)]
        wide = x.repeat(1, FEATURES // 40 + 1)[:, :FEATURES]
        outputs += [self.full(wide), self.plain(x), self.fine(x)]
        return (*outputs, *map(call, self.kinds, others))


def every(round_inputs: bool) -> Every:
    """Quantised, with fitted scales, in eval mode.

    Args:
        round_inputs: Whether formats without integers round inputs too, by many operators.
    """
    torch.manual_seed(0)
    model = Every()
    Prune(0.3, layers=["kinds.0", "kinds.1"], activation_sparsity=0.25)(model)
    recipe: dict[str, Any] = {"full": "Integer(width=8, frac_width=4)"}
    recipe["fine"] = {"weight": "MXInt(width=8)"}
    recipe |= {f"formats.{n}": text for n, text in enumerate((*INTEGERS, *OTHERS))}
    if not round_inputs:
        others = range(len(INTEGERS), len(INTEGERS) + len(OTHERS))
        recipe |= {
            f"formats.{n}": dict.fromkeys(("weight", "bias"), recipe[f"formats.{n}"])
            for n in others
        }
    recipe |= {f"inputs.{n}": {"input": text} for n, text in enumerate(INTEGERS)}
    recipe |= {f"kinds.{n}": KINDS[n % 2] for n in range(len(PAIRS))}
    Quantize(recipe, kinds=tuple(PAIRS))(model)
    model(torch.randn(64, 40), *model.examples)
    return model.eval()


def inputs(model: Every, rows: int) -> tuple[Tensor, ...]:
    """Ties and values far out of range are among them."""
    x = torch.randn(rows, 40)
    x[0, :20] = torch.arange(20) / 64 - 0.15625  # many ties of powers of two
    x[-1, 20:] = 100 * x[-1, 20:]
    return (x, *(torch.cat([each] * rows)[:rows] for each in model.examples))
