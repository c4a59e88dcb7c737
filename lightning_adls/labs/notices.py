"""What Lightning, Optuna and torch say of each training: kept to what a user can act on."""

import logging
import warnings


def quiet() -> None:
    """Keep to what a user can act on: no notices of each Trainer, and of each trial.

    For scripts and notebooks. It sets the levels of the loggers of Lightning and Optuna, and leaves
    out warnings that are no concern here.
    """
    warnings.filterwarnings("ignore", "IProgress not found")  # of a notebook's progress bars
    # They warn of that, and set the levels of their loggers, when they are imported.
    import lightning.pytorch  # noqa: F401
    import optuna  # noqa: F401

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # its batches are made fast
    warnings.filterwarnings("ignore", ".*infer the batch indices")  # predictions name their rows
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # of Lightning, on torch 2.13
    # Of a mixed precision, whose parameters are the float32 that it takes them for.
    warnings.filterwarnings("ignore", "Precision .*-mixed is not supported by the model summary")
    # Said in docs/performance.md, where float32 is what was asked for.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores for float32 matrix mult")
    # Why a kernel of attention cannot be used: the row's error says it.
    warnings.filterwarnings("ignore", module=r"lightning_adls\.bench\..*scaled_dot_product")
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA")
    # Of inductor, where it notes the operands of a product, which only timing its kernels needs.
    logging.getLogger("torch._inductor.select_algorithm").addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return "tensor meta failed for Extern Choice" not in str(record.msg)
