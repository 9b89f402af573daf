"""Killed at any moment, a run goes on bit for bit: whole processes, as a person starts and kills them."""
import os
import random
import signal
import time

import pytest

from modern_cnn.runs.checkpoints import saved_steps
from modern_cnn.runs.load import evaluate_workdir, load_run
from tests.data import files
from tests.runs.processes import TOTAL_STEPS, final_bits, finish, history, start, wait_for_step


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(workdir)
    step, bits = final_bits(workdir)
    assert step == TOTAL_STEPS
    return workdir, bits


def test_kill_minus_nine_at_random_points_then_the_same_bits(uninterrupted, tmp_path):
    """Two kills at random steps of one run (so a resumed run is killed again), then to the end; test_kills has more."""
    reference, bits = uninterrupted
    workdir = tmp_path / "killed"
    draw = random.Random(0 if os.environ.get("CI") else None)
    for point in sorted(draw.sample(range(1, TOTAL_STEPS // 2), 2)):
        process = start(workdir)
        wait_for_step(process, workdir, point)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(workdir)
    step, resumed = final_bits(workdir)
    assert step == TOTAL_STEPS
    assert [name for name, _ in resumed] == [name for name, _ in bits]
    assert [name for (name, a), (_, b) in zip(resumed, bits, strict=True) if a != b] == []
    assert history(workdir) == history(reference)


def test_a_streamed_run_goes_on_with_the_same_images(tmp_path):
    """Random crops of image files, decoded as training goes: killed, the same bits."""
    flags = (f"--config.data.source={files.write_digits(tmp_path / 'digits', 400)}", "--config.data.stream=true",
             "--config.augment.resized_crop=0.3", "--config.data.batch_size=32")
    finish(tmp_path / "whole", *flags)
    process = start(tmp_path / "killed", *flags)
    wait_for_step(process, tmp_path / "killed", 27)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(tmp_path / "killed", *flags)
    assert final_bits(tmp_path / "killed") == final_bits(tmp_path / "whole")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert evaluate_workdir(tmp_path / "killed")["count"] == 360


def test_kill_while_starting_up(uninterrupted, tmp_path):
    """Before and while config.json, the lock and the first checkpoint appear."""
    workdir = tmp_path / "young"
    for seconds in (0.4, 2.0):
        process = start(workdir)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    finish(workdir)
    assert final_bits(workdir)[1] == uninterrupted[1]


def test_sigterm_finishes_the_step_saves_and_exits(uninterrupted, tmp_path):
    workdir = tmp_path / "terminated"
    process = start(workdir, "--config.checkpoint_every_steps=0")
    wait_for_step(process, workdir, 9)
    process.terminate()
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in err
    assert str(workdir) in err
    step = saved_steps(workdir)[-1]
    assert step >= 9
    assert f"after step {step}," in err
    assert f"going on from step {step}" in finish(workdir)
    assert final_bits(workdir)[1] == uninterrupted[1]
    assert history(workdir) == history(uninterrupted[0])


def test_a_second_process_on_the_workdir_is_refused(tmp_path):
    workdir = tmp_path / "locked"
    first = start(workdir)
    wait_for_step(first, workdir, 3)
    first.send_signal(signal.SIGSTOP)  # it shall not end before the second has asked
    second = start(workdir)
    _, err = second.communicate(timeout=600)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert err == (f"error: another process (pid {first.pid}) is training in {workdir}; "
                   "wait for it, stop it, or choose another --workdir\n")
    finish(workdir)  # the kernel dropped the lock with its holder


def test_the_result_is_the_best_on_validation(uninterrupted):
    workdir, _ = uninterrupted
    validation = {r["step"]: (r["accuracy"], -r["loss"]) for r in history(workdir) if r["split"] == "validation"}
    assert load_run(workdir).step == max(validation, key=validation.get)
