"""ONNX Runtime, told to compute integers as they are meant."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_adls.errors import MissingFileError, MissingPackageError

if TYPE_CHECKING:
    import onnxruntime


def session(path: str | Path, threads: int = 0) -> "onnxruntime.InferenceSession":
    """Open a graph in ONNX Runtime, on the CPU.

    Processors without VNNI (before Cascade Lake and Zen 4) add products of 8 by 8 bits in 16 bits,
    which overflow: by default ONNX Runtime computes something else there, without a word. Its
    option ``session.x64quantprecision``, which is set here, has it take the way that does not.

    Args:
        path: Of the graph.
        threads: That it computes with; 0 takes one for each core.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "export: ONNX Runtime is not installed; run pip install 'lightning_adls[export]'."
        ) from error
    if not Path(path).is_file():
        raise MissingFileError(f"export: there is no file {str(path)!r}.")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
