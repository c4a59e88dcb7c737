"""Which tensor of a layer is rounded to which format."""

from dataclasses import dataclass, fields

from lightning_adls.formats import NumberFormat


@dataclass(frozen=True)
class LayerFormats:
    """The number format of each tensor of a layer; None leaves a tensor as it is.

    Blocks and channel scales run along the dimension that the layer sums over.

    Args:
        input: Rounds the input: the last dimension of a linear layer's, the channels of a
            convolution's; query, key and value of an attention.
        weight: Rounds the weight, seen as a matrix of ``out_features`` or ``out_channels`` rows; of
            an attention, that of the projections into its heads.
        bias: Rounds the bias that is added to what that weight gives.
    """

    input: NumberFormat | None = None
    weight: NumberFormat | None = None
    bias: NumberFormat | None = None

    def __str__(self) -> str:
        return f"input={self.input}, weight={self.weight}, bias={self.bias}"


ROLES = tuple(field.name for field in fields(LayerFormats))
