"""Kernels that a processor compiles per shape.

Members of a front differ in width and batches in length, so that training meets thousands of shapes. PyTorch's oneDNN
compiles a kernel for each and keeps the last 1,024: most are thrown away before they are met again.
"""

import os

CAPACITY = 4096  # with rounded lengths; each kernel takes memory, so that more is not better


def keep_kernels() -> None:
    """Let oneDNN keep more kernels, unless the environment says how many; of no effect after the first pass."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(CAPACITY))
