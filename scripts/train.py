"""Train the network of a config, or resume the run in the workdir.

    python scripts/train.py --config=configs/lenet.py:lenet_bn --config.epochs=5 --workdir=runs/mine
"""
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config: configs/lenet.py:VARIANT. Any field can be overridden: --config.data.batch_size=64.")
WORKDIR = flags.DEFINE(
    cli.Workdir(), "workdir", None, "Directory of the run, to begin or to resume, also in a bucket: gs://BUCKET/PATH, "
    "s3://BUCKET/PATH. By default runs/<config>-<variant>-<time>.")
PROFILE = flags.DEFINE_bool("profile", False, "Record a trace of some steps, for TensorBoard or Perfetto.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of the first of several processes that train together, the same in all of them, with "
    "--processes and --process; 'auto' on a TPU pod or under SLURM. All processes must be able to reach the workdir.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Number of processes that train together.", lower_bound=1,
                                 upper_bound=100_000)
PROCESS = flags.DEFINE_integer("process", 0, "Number of this process, from 0.", lower_bound=0, upper_bound=100_000)
DEBUG_NANS = flags.DEFINE_bool("debug_nans", False, "Stop at the operation that makes the first NaN (slow).")


def main() -> None:
    if COORDINATOR.value and WORKDIR.value is None:
        raise UserError("several processes need one --workdir, the same in all of them")
    if PROCESS.value >= PROCESSES.value or (PROCESSES.value > 1 and not COORDINATOR.value):
        raise UserError(f"--process={PROCESS.value} of --processes={PROCESSES.value}: it must be below that, and "
                        "several processes need a --coordinator")
    runtime.configure(debug_nans=DEBUG_NANS.value)
    if COORDINATOR.value:
        runtime.join_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    from modern_cnn.runs import loop

    workdir = WORKDIR.value or cli.new_workdir()
    logging.getLogger("modern_cnn").info("workdir: %s", workdir)
    loop.train_and_evaluate(CONFIG.value, workdir, profile=PROFILE.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
