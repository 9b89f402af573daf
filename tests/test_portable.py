"""Training without what only Unix has, in a process of its own: as on Windows."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HIDE = """
import os, runpy, signal, sys, types
import multiprocessing.util, psutil, subprocess, tempfile  # these have other code for Windows
held = []
sys.modules["fcntl"] = None
if sys.argv.pop(1) == "msvcrt":
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_LOCK=1, LK_NBLCK=2, locking=lambda *args: held.append(args))
del os.sysconf, signal.SIGHUP, signal.SIGPIPE
sys.argv[0] = "scripts/train.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("locking", ["msvcrt", pytest.param("none", marks=pytest.mark.slow)])
def test_training_needs_nothing_that_windows_lacks(locking, tmp_path):
    command = [sys.executable, "-c", HIDE, locking, "--config=configs/mlp.py", "--config.data.source=digits",
               "--config.max_steps=2", f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/curves.png").exists()
    assert ("has no locks" in result.stderr) == (locking == "none")
