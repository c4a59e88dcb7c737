"""Small networks in float64, whose derivatives finite differences can check."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Pair = tuple[nn.Module, Tensor]


def _transformers_conv1d() -> Pair:
    layer = Conv1D(5, 16)
    nn.init.normal_(layer.weight)
    return layer, torch.randn(3, 2, 16)


# By kind, a layer and three samples.
LAYERS: dict[str, Callable[[], Pair]] = {
    "Linear": lambda: (nn.Linear(20, 3), torch.randn(3, 2, 20)),
    "Conv1d": lambda: (nn.Conv1d(6, 4, 2), torch.randn(3, 6, 4)),
    "Conv2d": lambda: (nn.Conv2d(4, 6, 2, groups=2), torch.randn(3, 4, 3, 3)),
    "Conv3d": lambda: (nn.Conv3d(2, 3, 2), torch.randn(3, 2, 2, 3, 2)),
    "ConvTranspose1d": lambda: (nn.ConvTranspose1d(6, 4, 3, groups=2), torch.randn(3, 6, 3)),
    "ConvTranspose2d": lambda: (nn.ConvTranspose2d(3, 4, 2, bias=False), torch.randn(3, 3, 2, 2)),
    "ConvTranspose3d": lambda: (nn.ConvTranspose3d(2, 4, 2), torch.randn(3, 2, 1, 2, 2)),
    "MultiheadAttention": lambda: (
        nn.MultiheadAttention(8, 2, batch_first=True),
        torch.randn(3, 4, 8),
    ),
    "TransformersConv1D": _transformers_conv1d,
    "Embedding": lambda: (nn.Embedding(12, 8), torch.randint(12, (3, 5))),
}


class Net(nn.Module):
    """One layer, and a head that is no layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.change: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        x = self.change(x)
        attends = isinstance(self.layer, nn.MultiheadAttention)
        found: Tensor = self.layer(x, x, x)[0] if attends else self.layer(x)
        return found.tanh().flatten(1).cumsum(1).sin().sum(1)

    def loss(self, x: Tensor) -> Tensor:
        found: Tensor = self(x).square().mean()
        return found


def net(kind: str) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    layer, x = LAYERS[kind]()
    x = x.double() if x.is_floating_point() else x
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return Net(layer).double(), x


class ConvNet(nn.Module):
    """A plain convolutional network with what is not planned in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, bias=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu_()
        x = self.second(x).relu_().mean((-2, -1))
        found: Tensor = self.head(self.drop(x))
        return found


def conv_net() -> tuple[ConvNet, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    model = ConvNet()
    for parameter in model.head.parameters():
        nn.init.normal_(parameter)
    return model, (torch.randn(12, 1, 8, 8), torch.randint(3, (12,)))


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Trace:
    """All of a model that scoring could have changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.text = model, repr(model)
        self.ids = [id(x) for x in (*model.modules(), *model.parameters(), *model.buffers())]
        self.state = {name: deepcopy(x) for name, x in model.state_dict().items()}
        self.grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.modes = [m.training for m in model.modules()]
        self.keys = [set(vars(m)) for m in model.modules()]
        self.hooks = self._hooks()
        self.random = torch.get_rng_state()

    def _hooks(self) -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]

    def check(self) -> None:
        now = Trace(self.model)
        assert (now.text, now.ids, now.modes) == (self.text, self.ids, self.modes)
        assert (now.keys, now.hooks) == (self.keys, self.hooks)
        assert all(torch.equal(now.state[name], x) for name, x in self.state.items())
        for before, after in zip(self.grads, now.grads, strict=True):
            assert (before is None) == (after is None)
            assert before is None or (after is not None and torch.equal(before, after))
        assert torch.equal(now.random, self.random)
