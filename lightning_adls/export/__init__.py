"""Files that others can load, imported when they are first used.

One of our own, with the weights in the bits of their formats, and those of other engines.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adls.export.compressed import compressed_tensors as compressed_tensors
    from lightning_adls.export.examples import ExampleInputs as ExampleInputs
    from lightning_adls.export.examples import example_inputs as example_inputs
    from lightning_adls.export.lowering import lower as lower
    from lightning_adls.export.lowering import lowerable as lowerable
    from lightning_adls.export.onnx_graph import onnx as onnx
    from lightning_adls.export.onnx_session import session as session
    from lightning_adls.export.predicting import Prediction as Prediction
    from lightning_adls.export.predicting import Predictor as Predictor
    from lightning_adls.export.predicting import TextFacts as TextFacts
    from lightning_adls.export.reading import describe as describe
    from lightning_adls.export.reading import load as load
    from lightning_adls.export.torch_program import program as program
    from lightning_adls.export.verification import Compared as Compared
    from lightning_adls.export.verification import Verification as Verification
    from lightning_adls.export.verification import verify as verify
    from lightning_adls.export.writing import save as save

_MODULE_OF = {
    "Compared": "export.verification",
    "ExampleInputs": "export.examples",
    "Prediction": "export.predicting",
    "Predictor": "export.predicting",
    "TextFacts": "export.predicting",
    "Verification": "export.verification",
    "compressed_tensors": "export.compressed",
    "describe": "export.reading",
    "example_inputs": "export.examples",
    "load": "export.reading",
    "lower": "export.lowering",
    "lowerable": "export.lowering",
    "onnx": "export.onnx_graph",
    "program": "export.torch_program",
    "save": "export.writing",
    "session": "export.onnx_session",
    "verify": "export.verification",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"lightning_adls.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
