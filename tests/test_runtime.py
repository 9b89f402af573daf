"""The settings at start-up, and those that are left to the user."""
import ctypes
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modern_cnn import runtime
from modern_cnn.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


YNN = f"{runtime.CPU_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
BARRIERS = f"{runtime.BARRIER_FLAG}=cse_barrier_expander"


@pytest.mark.parametrize(("before", "version", "plugin", "platforms", "after"), [
    ("", "0.10.2", None, "", f"{YNN} {BARRIERS}"),
    ("--xla_a=1", "0.12.0.1", None, "", f"--xla_a=1 {YNN} {BARRIERS}"),
    (f"{runtime.CPU_FLAG}=", "0.10.2", None, "", f"{runtime.CPU_FLAG}= {BARRIERS}"),
    (f"{runtime.BARRIER_FLAG}=", "0.10.2", None, "", f"{runtime.BARRIER_FLAG}= {YNN}"),
    ("--xla_a=1", "0.99.0", None, "", f"--xla_a=1 {BARRIERS}"),
    ("", "0.10.2", "libtpu", "", YNN),  # accelerators cannot run barriers that are left
    ("", "0.10.2", "jax_plugins", "", YNN),
    ("", "0.10.2", "jax_plugins", "cpu", f"{YNN} {BARRIERS}"),
])
def test_xla_flags(before, version, plugin, platforms, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    runtime.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == after


def test_the_installed_xla_knows_the_flags(tmp_path):
    """An unknown flag would abort the process; without effect, the barrier would be gone."""
    code = ("import os; from modern_cnn import runtime; runtime.configure(); import jax\n"
            "step = jax.jit(lambda x: jax.lax.optimization_barrier(x + 1) * 2).lower(1.0).compile()\n"
            "print(step(1.0), 'opt-barrier' in step.as_text(), runtime.CPU_FLAG in os.environ['XLA_FLAGS'])")
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=environment | {"MODERN_CNN_CACHE": str(tmp_path)})
    assert done.stdout.split() == ["4.0", "True", "True"]


FAULTS = """
import resource, statistics, jax
from modern_cnn import runtime
runtime.configure(cache=False)
step, x, faults = jax.jit(lambda x: x + 1), jax.numpy.ones(2**25), []  # 128 MiB, 32,768 pages
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(statistics.median(faults)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can keep memory")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_ARENA_TEST": "8"}, False)])
def test_memory_is_kept_for_the_next_step_unless_the_environment_sets_the_allocator(environment, kept):
    own = {name: value for name, value in os.environ.items() if f"{name}=" not in runtime.allocator()}
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=own | {"JAX_PLATFORMS": "cpu"} | environment)
    assert (int(done.stdout) < 1000) == kept, f"{done.stdout.strip()} page faults a step"


FREED = """
import ctypes
from modern_cnn import runtime
runtime.configure(cache=False)
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_long]
block = libc.malloc(2_500_000_000)  # no page of it is touched
end = libc.sbrk(0)
libc.free(block)
print(end - libc.sbrk(0))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can keep memory")
def test_memory_of_large_steps_is_kept_too():
    """The end of the heap, which free() would move down."""
    own = {name: value for name, value in os.environ.items() if f"{name}=" not in runtime.allocator()}
    done = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=own | {"JAX_PLATFORMS": "cpu"})
    assert done.stdout == "0\n", f"{done.stdout.strip()} bytes were given back"


@pytest.mark.parametrize("platform", ["gpu", "another C library", "Windows"])
def test_memory_is_left_alone_elsewhere(platform, monkeypatch):
    """The C library is not asked where there is an accelerator; others have no mallopt, Windows no CDLL(None)."""
    asked = []

    def library(name):
        asked.append(name)
        if platform == "Windows":
            raise TypeError("expected str, bytes or os.PathLike object, not NoneType")
        return object()

    monkeypatch.setattr(runtime, "allocator", str)
    monkeypatch.setattr(runtime, "only_cpu", lambda: platform != "gpu")
    monkeypatch.setattr(runtime.ctypes, "CDLL", library)
    assert runtime.keep_memory() is False
    assert asked == ([] if platform == "gpu" else [None])


@pytest.mark.parametrize("coordinator", ["foo", "localhost:99999", "localhost:x", ":80", "nosuch.invalid:80", "auto"])
def test_a_coordinator_that_is_none_is_told(coordinator, monkeypatch):
    def none(*arguments):
        assert coordinator == "auto", "no other text gets so far"
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", none)
    with pytest.raises(UserError, match=f"--coordinator={coordinator}, 2 processes: .* - it must be the HOST:PORT"):
        runtime.join_processes(coordinator, 2, 0)


def test_a_log_imports_nothing_that_nobody_asked_for(tmp_path):
    """In a process of its own, where all that is installed and can be imported afterwards."""
    code = (f"import sys, pathlib; from modern_cnn.runs import log; log.Log(pathlib.Path({str(tmp_path)!r}), 0)\n"
            "unasked = {'torch', 'boto3', 'google.cloud.storage'}\n"
            "assert 'tensorboardX' in sys.modules and not {*unasked, 'wandb', 'mlflow'} & set(sys.modules)\n"
            "import importlib.util; assert all(map(importlib.util.find_spec, unasked))")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
