"""Small networks to export, which tests of this folder share."""

from torch import Tensor, nn

from lightning_adls.transforms import Prune, Quantize


class Net(nn.Module):
    """An embedding, a convolution and a classifier whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 24, padding_idx=0)
        self.conv = nn.Conv1d(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 30)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Scores, ``(batch, positions, 30)``, of int64 ``(batch, positions)``."""
        features = self.norm(self.conv(self.embedding(x).mT))
        scores: Tensor = self.head(features.mT)
        return scores


def net(text: str | None, sparsity: float = 0.0) -> Net:
    """In eval mode, quantised but for the convolution's input, pruned before."""
    model = Net()
    kinds = ("Linear", "Conv1d", "Embedding")
    if sparsity:
        Prune(sparsity, kinds=kinds)(model)
    if text is not None:
        recipe = {"*": {"weight": text}, "head": {"weight": text, "input": text, "bias": text}}
        Quantize(recipe, kinds=kinds)(model)
    return model.eval()
