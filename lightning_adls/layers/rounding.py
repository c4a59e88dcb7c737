"""What a layer rounds, and whether it does: the input, the bias and any tensor by its format."""

from typing import ClassVar

from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.learned_scales import LearnedScales


class Rounding(LearnedScales):
    """A layer that rounds its tensors to its formats, unless it is switched off.

    Attributes:
        waiting: Whether a fit has yet to begin to round. In no state dict: its steps decide.
    """

    # Where the features of the input lie, counted from the end.
    feature_dim: ClassVar[int] = -1

    _enabled: bool
    _input_sparsity: float | None
    waiting: bool

    @property
    def enabled(self) -> bool:
        """Whether anything is rounded."""
        return self._enabled and not self.waiting

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled

    @property
    def input_sparsity(self) -> float:
        """Share of the input's features that is set to zero, 0 to below 1.

        Those of the smallest magnitude, for each token or pixel by itself.

        Raises:
            ValueError: When set, if it is out of range.
        """
        return self._input_sparsity or 0.0

    @input_sparsity.setter
    def input_sparsity(self, share: float) -> None:
        if not 0 <= share < 1:
            raise InputValueError(
                f"{type(self).__name__}: input_sparsity={share} is not in 0 <= input_sparsity < 1."
            )
        self._input_sparsity = float(share)

    @property
    def changes_input(self) -> bool:
        """Whether the layer rounds its input or sets a part of it to zero."""
        return bool(self.input_sparsity) or (self.enabled and self.formats.input is not None)

    def rounded_input(self, input: Tensor) -> Tensor:
        """The input as it is multiplied: rounded, its smallest features set to zero."""
        if self.formats.input is None and not self.input_sparsity:
            return input
        if input.is_nested:
            raise InputValueError(
                f"{type(self).__name__}: a nested input cannot be rounded; pad it (an "
                "nn.TransformerEncoder does so with use_nested_tensor=False)."
            )
        moved = self.feature_dim != -1
        features = input.movedim(self.feature_dim, -1) if moved else input
        rounded = self._round("input", features)
        if self.input_sparsity:
            dropped = round(self.input_sparsity * features.shape[-1])
            smallest = features.abs().topk(dropped, dim=-1, largest=False).indices
            rounded = rounded.scatter(-1, smallest, 0.0)
        return rounded.movedim(-1, self.feature_dim) if moved else rounded

    def rounded_bias(self) -> Tensor | None:
        """The bias as it is added."""
        # Not from `_parameters`: a parametrised bias is none, and an embedding has no attribute.
        bias = getattr(self, self.bias_name, None)
        return None if bias is None else self._round("bias", bias)

    def _round(self, role: str, x: Tensor) -> Tensor:
        fmt: NumberFormat | None = getattr(self.formats, role)
        if fmt is None or not self.enabled:
            return x
        scales = self._fitted_scales(role, fmt, x)
        return fmt(x, scales, training=self.training, batched=role == "input")
