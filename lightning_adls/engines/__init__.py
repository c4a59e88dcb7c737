"""Who computes: this process, processes beside it, or a cluster."""

from lightning_adls.engines.base import Call, Channel, Driver, Engine, EngineFailed, Lost, Shared
from lightning_adls.engines.making import ENGINES, make_engine
from lightning_adls.engines.serial import Serial
from lightning_adls.engines.session import Ray

__all__ = [
    "ENGINES",
    "Call",
    "Channel",
    "Driver",
    "Engine",
    "EngineFailed",
    "Lost",
    "Ray",
    "Serial",
    "Shared",
    "make_engine",
]
