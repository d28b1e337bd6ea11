"""Freed arrays go back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from magicmm_export.memory import return_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])

assert return_freed_memory()
np.ones(30 << 20, np.uint8)  # freed: glibc would now keep blocks of up to 30 MB
before = resident()
blocks = [np.ones(8 << 20, np.uint8) for _ in range(12)]
del blocks[:-1]  # the last one would hold the heap in place
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_blocks_leave_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 16 * 1024  # the one block that is left has 8 MB; kept would be 96
