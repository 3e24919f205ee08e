"""What this machine's CPU can do, read without the code under test."""

import platform
from pathlib import Path

import pytest

# oneDNN needs it on x86-64 only.
HAS_BFLOAT16_MATMUL = platform.machine() != "x86_64" or "avx512bw" in Path("/proc/cpuinfo").read_text()
needs_bfloat16 = pytest.mark.skipif(
    not HAS_BFLOAT16_MATMUL, reason="this CPU has no AVX-512: oneDNN has no bfloat16 matmul"
)
