"""Device settings for comparisons."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def exact_cuda() -> Iterator[None]:
    """Turn TF32 off inside the block. TF32 has 10 mantissa bits: resnet50 on an H200 differs from itself by 59 dB."""
    import torch

    convolution, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolution, matmul
