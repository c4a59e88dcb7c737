"""Steps of a variant: forward only, or a full step of training; and passes over many inputs."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.bench.instruments.correctness import Result, first_tensor
from lightning_adls.bench.workloads.inputs import Inputs, arguments, placed, tensors_of
from lightning_adls.bench.workloads.variants import DTYPES, Variant
from lightning_adls.errors import InputValueError

Target = nn.Module | Callable[..., Any]
Loss = Callable[[Tensor], Tensor]


def mean_square(output: Tensor) -> Tensor:
    """A loss for any output, in float32."""
    return output.float().square().mean()


class ForwardStep:
    """A forward pass without gradients, a module in eval mode.

    Args:
        target: A module, of which a copy is run, or a function.
        variant: How to run it.
        inputs: What to call it with.
        device: Where.
    """

    def __init__(
        self, target: Target, variant: Variant, inputs: Inputs, device: torch.device
    ) -> None:
        dtype = DTYPES[variant.dtype]
        self.inputs = placed(inputs, device, dtype)
        if isinstance(target, nn.Module):
            target = copy.deepcopy(target).to(device, dtype).eval()
        self.target = target
        self._call = variant.compiled(target)

    def __call__(self) -> None:
        with torch.no_grad():
            self.forward()

    def forward(self) -> Any:
        positional, named = arguments(self.inputs)
        return self._call(*positional, **named)

    def result(self) -> Result:
        """What the step computes."""
        with torch.no_grad():
            return Result(_kept(first_tensor(self.forward())))

    def tensors(self) -> Iterator[Tensor]:
        """What lives from one step to the next."""
        yield from tensors_of(self.inputs)
        if isinstance(self.target, nn.Module):
            yield from self.target.parameters()
            yield from self.target.buffers()


class TrainingStep(ForwardStep):
    """Forward, loss, backward, a step of AdamW, and gradients set to None.

    The model is compiled, loss and optimiser are not. Dropout is switched off: eager and compiled
    code draw different numbers, so that their results could not be compared. The learning rate is
    0: each step does all the work and starts from the same weights, so that any step can be checked
    and none diverges.

    Args:
        target: A module, of which a copy is trained.
        variant: How to run it.
        inputs: What to call it with.
        device: Where.
        loss: Maps the output's tensor to a scalar.

    Raises:
        ValueError: If ``target`` has no parameter to train.
    """

    def __init__(
        self, target: Target, variant: Variant, inputs: Inputs, device: torch.device, loss: Loss
    ) -> None:
        if not isinstance(target, nn.Module):
            raise InputValueError(
                "measure: training=True needs a module; a function has no parameters to train."
            )
        if not any(parameter.requires_grad for parameter in target.parameters()):
            raise InputValueError("measure: training=True, but no parameter requires a gradient.")
        super().__init__(target, variant, inputs, device)
        assert isinstance(self.target, nn.Module)
        _without_dropout(self.target.train())
        self._loss = loss
        self._trained = [p for p in self.target.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=0.0)

    def __call__(self) -> None:
        self._loss(first_tensor(self.forward())).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def result(self) -> Result:
        output = first_tensor(self.forward())
        loss = self._loss(output)
        loss.backward()
        gradients = [p.grad.flatten() for p in self._trained if p.grad is not None]
        result = Result(_kept(output), _kept(loss), _kept(torch.cat(gradients)))
        self._optimizer.zero_grad(set_to_none=True)
        return result

    def tensors(self) -> Iterator[Tensor]:
        yield from super().tensors()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _kept(tensor: Tensor) -> Tensor:
    # A copy: CUDA graphs write the next output over this one.
    return tensor.detach().cpu().clone()


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0


def make_step(
    target: Target,
    variant: Variant,
    inputs: Inputs,
    device: torch.device,
    loss: Loss | None,
) -> ForwardStep:
    """A step of training where there is a loss, a forward pass where there is none."""
    if loss is None:
        return ForwardStep(target, variant, inputs, device)
    return TrainingStep(target, variant, inputs, device, loss)


def passes_over(
    target: nn.Module, batches: Sequence[Inputs], variant: Variant, device: torch.device
) -> Callable[[], None]:
    """What calls a copy of a module with each batch, in eval mode without gradients.

    Args:
        target: Is copied.
        batches: One or more inputs, each for one call.
        variant: How to run it.
        device: Where.
    """
    dtype = DTYPES[variant.dtype]
    run = variant.compiled(copy.deepcopy(target).to(device, dtype).eval())
    calls = [arguments(placed(batch, device, dtype)) for batch in batches]

    @torch.no_grad()
    def one_pass() -> None:
        for positional, named in calls:
            run(*positional, **named)

    return one_pass
