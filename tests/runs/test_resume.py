"""Killed at any moment, a run goes on bit for bit: whole processes, as a person starts and kills them."""
import os
import random
import signal
import time

import pytest

from modern_cnn.runs.checkpoints import saved_steps
from modern_cnn.runs.load import evaluate_workdir, load_run
from modern_cnn.runs.workdir import lock
from tests.data import files
from tests.runs.processes import TOTAL_STEPS, end, final_bits, finish, fork, history, last_step, wait


@pytest.fixture(scope="module")
def uninterrupted(server, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(server, workdir)
    step, bits = final_bits(workdir)
    assert step == TOTAL_STEPS
    return workdir, bits


def fork_and_kill(server, workdir, *flags, when, after=0.0):
    """Kill a run some seconds after `when()` has become true."""
    process = fork(server, workdir, *flags)
    wait(process.is_alive, when)
    time.sleep(after)
    process.kill()
    code, _, err = end(process)
    assert code == -signal.SIGKILL, err


def test_kill_minus_nine_at_random_points_then_the_same_bits(server, uninterrupted, tmp_path):
    """Two kills at random steps of one run (so a resumed run is killed again), then to the end; test_kills has more."""
    reference, bits = uninterrupted
    workdir = tmp_path / "killed"
    draw = random.Random(0 if os.environ.get("CI") else None)
    for point in sorted(draw.sample(range(1, TOTAL_STEPS // 2), 2)):
        fork_and_kill(server, workdir, when=lambda: last_step(workdir) >= point, after=draw.uniform(0, 0.05))  # noqa: B023
    finish(server, workdir)
    step, resumed = final_bits(workdir)
    assert step == TOTAL_STEPS
    assert [name for name, _ in resumed] == [name for name, _ in bits]
    assert [name for (name, a), (_, b) in zip(resumed, bits, strict=True) if a != b] == []
    assert history(workdir) == history(reference)


def test_a_streamed_run_goes_on_with_the_same_images(server, tmp_path):
    """Random crops of image files, decoded as training goes: killed, the same bits."""
    flags = (f"--config.data.source={files.write_digits(tmp_path / 'digits', 400)}", "--config.data.stream=true",
             "--config.augment.resized_crop=0.3", "--config.data.batch_size=32", "--config.data.image_size=8",
             "--config.epochs=1", "--config.schedule.warmup_epochs=0",
             "--config.checkpoint_every_steps=3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(server, whole, *flags)
    fork_and_kill(server, killed, *flags, when=lambda: last_step(killed) >= 6)
    finish(server, killed, *flags)
    assert final_bits(killed) == final_bits(whole)
    assert history(killed) == history(whole)
    assert evaluate_workdir(killed)["count"] == 360


@pytest.mark.parametrize("file", ["checkpoints/*", pytest.param("config.json", marks=pytest.mark.slow)])
def test_kill_while_starting_up(file, server, uninterrupted, tmp_path):
    """While config.json, the lock and the first checkpoint appear."""
    workdir = tmp_path / "young"
    fork_and_kill(server, workdir, when=lambda: any(workdir.glob(file)))
    finish(server, workdir)
    assert final_bits(workdir)[1] == uninterrupted[1]


def test_sigterm_finishes_the_step_saves_and_exits(server, uninterrupted, tmp_path):
    workdir = tmp_path / "terminated"
    process = fork(server, workdir, "--config.checkpoint_every_steps=0")
    wait(process.is_alive, lambda: last_step(workdir) >= 9)
    process.terminate()
    code, _, err = end(process)
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in err
    assert str(workdir) in err
    step = saved_steps(workdir)[-1]
    assert step >= 9
    assert f"after step {step};" in err
    assert f"resuming from step {step}" in finish(server, workdir)
    assert final_bits(workdir)[1] == uninterrupted[1]
    assert history(workdir) == history(uninterrupted[0])


def test_a_second_process_on_the_workdir_is_refused(server, tmp_path):
    workdir = tmp_path / "locked"
    first = fork(server, workdir)
    wait(first.is_alive, lambda: last_step(workdir) >= 3)
    os.kill(first.pid, signal.SIGSTOP)  # it shall not end before the second has asked
    code, _, err = end(fork(server, workdir))
    first.kill()
    end(first)
    assert code == 1
    assert err == (f"error: another process (pid {first.pid}) is training in {workdir}; "
                   "wait for it, stop it, or choose another --workdir\n")
    with lock(workdir):  # the kernel dropped it with its holder
        pass


def test_the_result_is_the_best_on_validation(uninterrupted):
    workdir, _ = uninterrupted
    validation = {r["step"]: (r["accuracy"], -r["loss"]) for r in history(workdir) if r["split"] == "validation"}
    assert load_run(workdir).step == max(validation, key=validation.get)
