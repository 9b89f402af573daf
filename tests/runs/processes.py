"""Runs as whole processes, as a person starts and kills them, and what they leave."""
import ctypes
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import jax
import numpy as np

from modern_cnn.runs import record
from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.log import read_metrics
from tests.forked import run_script

ROOT = Path(__file__).resolve().parents[2]
SMALL = (str(ROOT / "scripts/train.py"), f"--config={ROOT / 'tests/runs/small.py'}")
# Batch statistics, dropout, momentum, averages, augmentation, a validation split to choose by, checkpoints in epochs.
TRAIN = (*SMALL, "--config.epochs=2", "--config.eval_every_epochs=1", "--config.data.validation=0.1",
         "--config.data.batch_size=128", "--config.model.dropout_rate=0.1", "--config.augment.rotate=0",
         "--config.augment.zoom=0", "--config.augment.shift=0", "--config.augment.crop=1", "--config.log_every_steps=3",
         "--config.checkpoint_every_steps=4", "--config.test_every_epoch=True", "--config.optimizer.ema_decay=0.9")
TOTAL_STEPS = 2 * (1293 // 128)


def start(workdir, *flags):
    """Start a run in a new Python."""
    return subprocess.Popen([sys.executable, *TRAIN, f"--workdir={workdir}", *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def other_host():
    """Give this process the boot id of another machine, by which JAX knows hosts apart; it needs to be root's."""
    libc, new_mounts, private, bind = ctypes.CDLL(None), 0x20000, 0x44000, 0x1000  # from sched.h and sys/mount.h
    with tempfile.NamedTemporaryFile("w") as own:
        own.write(f"{uuid.UUID(int=1)}\n")
        own.flush()
        if libc.unshare(new_mounts) == 0 == libc.mount(None, b"/", None, private, None):
            libc.mount(own.name.encode(), b"/proc/sys/kernel/random/boot_id", None, bind, None)


def _run(script, folder, environment):
    record.draw_curves = lambda *args: None
    if environment.pop("OTHER_HOST", ""):
        other_host()
    run_script(script, folder, environment)


def fork(server, workdir, *flags, command=TRAIN, **environment):
    """Start a run, which draws no curves, in a process that the fixture `server` forks: that saves the imports."""
    workdir.parent.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir=workdir.parent)
    environment["MODERN_CNN_CACHE"] = os.environ["MODERN_CNN_CACHE"]
    process = server.Process(target=_run, args=([*command, f"--workdir={workdir}", *flags], folder, environment))
    process.start()
    process.folder = Path(folder)
    return process


def end(process):
    """Return the exit code of a forked process, and what it wrote to stdout and stderr, when it has ended."""
    process.join(600)
    return process.exitcode, *((process.folder / name).read_text() for name in ("out", "err"))


def finish(server, workdir, *flags):
    code, out, err = end(fork(server, workdir, *flags))
    assert code == 0, err
    return out


def last_step(workdir) -> int:
    return max((record["step"] for record in read_metrics(workdir / "metrics.jsonl")), default=0)


def wait(running, reached):
    """Wait until `reached()`, or the process is not `running()` any more."""
    while running() and not reached():
        time.sleep(0.005)


def final_bits(workdir):
    """Everything a checkpoint holds, as saved, of the newest step."""
    checkpoints = Checkpoints(workdir, read_only=True)
    step = saved_steps(workdir)[-1]
    restored = checkpoints._manager.restore(step)
    checkpoints.close()
    return step, [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes())
                  for path, leaf in jax.tree_util.tree_leaves_with_path(dict(restored.items()))]


def history(workdir):
    """metrics.jsonl without what a clock measured."""
    return [{key: value for key, value in record.items() if key != "images_per_second"}
            for record in read_metrics(workdir / "metrics.jsonl")]
