"""How values travel to workers: cloudpickle, so that they may be functions within a script."""

import weakref
from io import BytesIO
from typing import Any

import cloudpickle

_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # What Lightning leaves in a DataModule: its last Trainer, which is often gone.
        if type(obj) in _PROXIES:
            return type(None), ()
        return super().reducer_override(obj)


def dumps(value: Any) -> bytes:
    """A value as bytes; what it only refers to weakly becomes None."""
    buffer = BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def loads(pickled: bytes) -> Any:
    """The value. Only for bytes that this program wrote itself: pickles can run anything."""
    return cloudpickle.loads(pickled)
