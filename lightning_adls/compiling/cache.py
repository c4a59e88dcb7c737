"""What torch compiled, kept on disk between processes."""

import os
from pathlib import Path

import torch._functorch.config as functorch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

# Torch's own; read whenever it compiles.
CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"


def keep_on_disk() -> Path:
    """Have this process, and those that it starts, keep what torch compiles; says where.

    Torch keeps graphs and kernels anyway, but in the system's folder for temporary files, which is
    emptied when the machine starts, and none that holds an autograd function, as each number format
    does. Here they lie in ``lightning_adls/compiled`` in ``$XDG_CACHE_HOME``, or else in
    ``~/.cache``. The environment variable ``TORCHINDUCTOR_CACHE_DIR`` names another folder, and
    ``TORCHINDUCTOR_FORCE_DISABLE_CACHES=1`` keeps nothing. Files of torch's other versions and of
    other code are not found again and may be deleted at any time.

    Called whenever this package compiles. It is for the whole process: other models that it
    compiles are kept there too.
    """
    # The key of a graph holds the forward and backward graphs of autograd functions, constants
    # included; torch is careful because functions may be opaque to it, and those are not traced.
    functorch.autograd_cache_allow_custom_autograd_functions = True
    # Importing torch's compiler sets the variable to torch's own folder.
    if os.environ.get(CACHE_DIR) in (None, str(Path(default_cache_dir()).absolute())):
        user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        os.environ[CACHE_DIR] = str((user / "lightning_adls" / "compiled").expanduser())
    return Path(os.environ[CACHE_DIR])
