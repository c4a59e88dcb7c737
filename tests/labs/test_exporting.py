"""What a target cannot say of a model is refused before anything is written."""

from pathlib import Path

import pytest
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs import exporting
from lightning_adls.labs.trained import TrainedModel
from lightning_adls.transforms.structured import PruneStructured


def test_a_network_that_a_packed_file_cannot_describe_is_refused(
    tiny_bert: nn.Module, texts: TextData, tmp_path: Path
) -> None:
    PruneStructured(neurons=0.5)(tiny_bert)
    module = TextClassifier(tiny_bert).eval()
    trained = TrainedModel("sparse", "lab1/test", tmp_path, module, texts, {})
    with pytest.raises(InputValueError, match=r"has the shape \(16.*, and \(32.* in the network"):
        exporting.write(trained, tmp_path / "export", "packed")
    assert not (tmp_path / "export").exists()
    path = exporting.write(trained, tmp_path / "export", "program")
    assert path.is_file()
