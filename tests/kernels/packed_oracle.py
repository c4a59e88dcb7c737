"""Packed tensors that hold everything, and an oracle that unpacks them in numpy."""

import numpy as np
import torch
from torch import Tensor


def all_pairs(columns: int = 256) -> tuple[Tensor, Tensor]:
    """Each code that is written with each exponent, the NaN among them: a row per exponent."""
    codes = torch.arange(256).sub(128).clamp(min=-127).to(torch.int8).expand(256, 256)
    exponents = torch.arange(256, dtype=torch.uint8).unsqueeze(1).expand(256, -(-columns // 32))
    return codes[:, :columns].contiguous(), exponents.contiguous()


def unpacked(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """``code * 2**(exponent - 133)`` in double precision, saturating in ``dtype``."""
    e = exponents.numpy().astype(np.int32).repeat(32, axis=-1)[..., : codes.shape[-1]]
    values = np.where(e == 255, np.nan, np.ldexp(codes.numpy().astype(np.float64), e - 133))
    limit = torch.finfo(dtype).max
    return torch.from_numpy(values.clip(-limit, limit)).to(dtype)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal dtypes and values, where a NaN equals a NaN and the sign of zero means nothing."""
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and a[a == a].equal(b[b == b])


def hard_input(dtype: torch.dtype) -> Tensor:
    """Shape (blocks, 70): blocks of every magnitude of ``dtype``, and the awkward ones."""
    generator = torch.Generator().manual_seed(0)
    info = torch.finfo(dtype)
    exponents = torch.arange(-330, 330, dtype=torch.float64)
    x = torch.randn(len(exponents), 70, generator=generator, dtype=torch.float64)
    x = (x * torch.exp2(exponents)[:, None]).clamp(info.min, info.max).to(dtype)
    x[::7, ::5] = 0
    x[::11, 3] = torch.inf
    x[::13, 40:] = -torch.inf
    x[5], x[6] = 0, info.tiny * info.eps
    x[7], x[8, ::2] = info.max, info.min
    return x
