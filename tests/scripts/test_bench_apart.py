"""A program in a process of its own is timed there, has its own setting of the allocator, and its end is told."""
import contextlib
import os
import time

import jax
import pytest

from modern_cnn import runtime
from modern_cnn.errors import UserError
from scripts.bench import steps, timing
from scripts.bench.apart import apart
from scripts.bench.timing import Case, Runner

CASE = Case("lenet", 8, (28, 28, 1), "float32")


def sleeper(case):
    """Return a run of 10 ms; its memory says which process it is, and whether that computes in another thread."""
    return Runner(lambda: time.sleep(0.01), case.batch_size, None,
                  2 * os.getpid() + jax.config.values["jax_cpu_enable_async_dispatch"])


def impossible(case):
    raise UserError(f"no {case.model} here")


def lost(case):
    return Runner(lambda: os._exit(9))


@pytest.mark.parametrize("keep", [True, False])
def test_it_is_timed_in_its_process_with_its_allocator(keep):
    with apart("ours", sleeper, CASE, keep) as runner:
        assert runner.turn
        assert 10 <= runner.turn(50) < 250, "milliseconds of one run, not of all"
        pid, asynchronous = divmod(runner.memory or 0, 2)
        assert pid != os.getpid()
        assert asynchronous == (not (keep and runtime.keep_memory()))  # other systems than glibc's keep nothing
        assert runner.ready_s == 8
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_error_is_ours():
    with pytest.raises(UserError, match="no lenet here"), apart("ours", impossible, CASE, True):
        pytest.fail("there is no program")


def test_its_end_is_told():
    with apart("torch", lost, CASE, False) as runner, pytest.raises(UserError, match="the process of torch ended"):
        runner.run()


def test_each_peer_has_the_allocator_of_its_user(monkeypatch):
    kept = {}

    @contextlib.contextmanager
    def here(who, make, case, keep):
        kept[who] = keep
        yield Runner(lambda: None)

    monkeypatch.setattr(steps, "apart", here)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0)
    steps.compare_steps(CASE, [who for who in steps.PROGRAMS["step"] if who != "ours"], 1)
    assert kept == {"ours": True, "library": True, "torch_kept": True,
                    "torch": False, "torch_compile": False, "ours_system": False}
