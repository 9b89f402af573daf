"""What start-up sets, and what it leaves to the user."""
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modern_cnn import runtime

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("before", "version", "after"), [
    ("", "0.10.2", f"{runtime.CPU_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"),
    ("--xla_a=1", "0.12.0.1", f"--xla_a=1 {runtime.CPU_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"),
    (f"{runtime.CPU_FLAG}=", "0.10.2", f"{runtime.CPU_FLAG}="),
    ("--xla_a=1", "0.99.0", "--xla_a=1"),
])
def test_xla_flags(before, version, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    runtime._set_xla_flags()
    assert os.environ["XLA_FLAGS"] == after


def test_the_installed_xla_knows_the_flag(tmp_path):
    """An unknown one would abort the process."""
    code = ("import os; from modern_cnn import runtime; runtime.configure(); import jax\n"
            "print(jax.jit(lambda x: x + 1)(1), runtime.CPU_FLAG in os.environ['XLA_FLAGS'])")
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=environment | {"MODERN_CNN_CACHE": str(tmp_path)})
    assert done.stdout.split() == ["2", "True"]
