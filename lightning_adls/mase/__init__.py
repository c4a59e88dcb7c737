"""MASE side by side: its layers bit for bit, its configs, and MASE itself as a backend.

MASE (https://github.com/DeepWok/mase) rounds otherwise than the definitions of its formats say;
here is what it computes, to compare with it and with what was measured with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adls.mase.config import read_config as read_config
    from lightning_adls.mase.export import to_config as to_config
    from lightning_adls.mase.export import write_config as write_config
    from lightning_adls.mase.layers import LinearBinary as LinearBinary
    from lightning_adls.mase.layers import LinearBinaryResidualSign as LinearBinaryResidualSign
    from lightning_adls.mase.layers import LinearBinaryScaling as LinearBinaryScaling
    from lightning_adls.mase.layers import LinearBlockFP as LinearBlockFP
    from lightning_adls.mase.layers import LinearBlockLog as LinearBlockLog
    from lightning_adls.mase.layers import LinearBlockMinifloat as LinearBlockMinifloat
    from lightning_adls.mase.layers import LinearInteger as LinearInteger
    from lightning_adls.mase.layers import LinearLog as LinearLog
    from lightning_adls.mase.layers import LinearMinifloatDenorm as LinearMinifloatDenorm
    from lightning_adls.mase.layers import LinearMinifloatIEEE as LinearMinifloatIEEE
    from lightning_adls.mase.layers import LinearMXFP as LinearMXFP
    from lightning_adls.mase.layers import LinearMXInt as LinearMXInt
    from lightning_adls.mase.layers import LinearTernary as LinearTernary

_MODULE_OF = {
    "LinearBinary": "layers",
    "LinearBinaryResidualSign": "layers",
    "LinearBinaryScaling": "layers",
    "LinearBlockFP": "layers",
    "LinearBlockLog": "layers",
    "LinearBlockMinifloat": "layers",
    "LinearInteger": "layers",
    "LinearLog": "layers",
    "LinearMXFP": "layers",
    "LinearMXInt": "layers",
    "LinearMinifloatDenorm": "layers",
    "LinearMinifloatIEEE": "layers",
    "LinearTernary": "layers",
    "read_config": "config",
    "to_config": "export",
    "write_config": "export",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
