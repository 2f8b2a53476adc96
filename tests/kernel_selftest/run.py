"""The same as `python -m tests.kernel_selftest`, from any directory."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])
runpy.run_module("tests.kernel_selftest", run_name="__main__", alter_sys=True)
