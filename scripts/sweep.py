"""Train the network of a config at every point of a grid, and compare the results in a table and a page.

    python scripts/sweep.py --config=configs/lenet.py --sweep=seed=0:8 --sweep=optimizer.learning_rate=0.1,0.3 \\
        --workdir=runs/rates
"""
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config: configs/lenet.py:VARIANT. Fields are overridden for all: --config.data.batch_size=64.")
SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "A field and its values: seed=0:8 (0 to 7), data.batch_size=32:129:32, model.norm=batch,none. Put "
    "text with commas in double quotes. With several of these flags every combination is a trial.")
WORKDIR = flags.DEFINE(
    cli.Path(), "workdir", None, "Directory of the sweep; the same command resumes it if it was stopped there, and "
    "another grid adds its trials. By default runs/sweep-<config>-<variant>-<time>.")
TOGETHER = flags.DEFINE_bool("together", True, "Train trials that differ only in numbers as one compiled program; "
                             "--notogether: one after the other.")


def main() -> None:
    runtime.configure()
    from modern_cnn.sweeps import sweep

    workdir = WORKDIR.value or cli.new_workdir("sweep")
    logging.getLogger("modern_cnn").info("workdir: %s", workdir)
    sweep.run(CONFIG.value, SWEEP.value, workdir, together=TOGETHER.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
