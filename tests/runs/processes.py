"""Runs as whole processes, as a person starts and kills them, and what they leave."""
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from modern_cnn.runs.checkpoints import Checkpoints, saved_steps
from modern_cnn.runs.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
# Batch statistics, momentum, averages, augmentation, a validation split to choose by, checkpoints within epochs.
TRAIN = (sys.executable, str(ROOT / "scripts/train.py"), f"--config={ROOT / 'configs/quickstart.py'}",
         "--config.epochs=4", "--config.eval_every_epochs=2", "--config.data.validation=0.1",
         "--config.data.image_size=16", "--config.log_every_steps=3", "--config.checkpoint_every_steps=4",
         "--config.test_every_epoch=True", "--config.optimizer.ema_decay=0.9")
TOTAL_STEPS = 4 * (1293 // 64)


def start(workdir, *flags):
    return subprocess.Popen([*TRAIN, f"--workdir={workdir}", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def finish(workdir, *flags):
    process = start(workdir, *flags)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def last_step(workdir) -> int:
    return max((record["step"] for record in read_metrics(workdir / "metrics.jsonl")), default=0)


def wait_for_step(process, workdir, step):
    while process.poll() is None and last_step(workdir) < step:
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
