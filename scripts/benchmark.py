"""Times training steps, or the epochs of a config, ours and others' in turn; or whole runs of a config.

    python scripts/benchmark.py --models=lenet,resnet18_cifar --peer=torch --out=steps.json
    python scripts/benchmark.py --models=lenet --operations
    python scripts/benchmark.py --config=configs/lenet.py --rounds=3
    python scripts/benchmark.py --config=configs/quickstart.py --startup
    python scripts/benchmark.py --config=configs/speedrun.py --seeds=5
    python scripts/benchmark.py --config=configs/lenet.py --trials=16 --config.epochs=1
    python scripts/benchmark.py --config=configs/resnet.py:resnet50 --loading --peer=torch,tf.data \\
        --config.data.source=folder:DIR --config.data.stream=true --config.augment.resized_crop=0.08
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Time the epochs of this config, with their data and the scoring of the test split, not steps. The "
    "peer torch loads images by PIL and DataLoader.")
MODELS = flags.DEFINE_list("models", [], "Networks, with commas between them; by default one of every family.")
PEERS = flags.DEFINE_list("peer", ["torch"], "Whom to compare with, with commas: torch, torch_compile, library; of "
                          "epochs torch; of loading torch, tf.data.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images in a batch; 0: the network's own.", lower_bound=0)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 0, "With --config: whole runs of scripts/train.py instead, so many seeds, with "
                             "empty caches; prints test accuracy and time.", lower_bound=0)
TRIALS = flags.DEFINE_integer("trials", 0, "With --config: so many seeds by scripts/sweep.py together, one after the "
                              "other, and as runs of scripts/train.py.", lower_bound=0)
STARTUP = flags.DEFINE_bool("startup", False, "With --config: the time from the command to its first step.")
LOADING = flags.DEFINE_bool("loading", False, "With --config of a streamed folder: the loading of its images alone.")
OPERATIONS = flags.DEFINE_bool("operations", False, "Where the time of one step goes, ours and PyTorch's, instead.")
OUT = flags.DEFINE_string("out", "", "Also write the measurements as JSON, with machine, versions and commit.")


def main():
    runtime.configure(cache=False)  # or what is measured as compilation would be reading a file
    from scripts.bench import commands as processes
    from scripts.bench import tables

    if OPERATIONS.value:
        return tables.report_operations(MODELS.value, BATCH_SIZE.value, DTYPE.value, ROUNDS.value)
    if (SEEDS.value or LOADING.value or STARTUP.value or TRIALS.value) and not CONFIG.value:
        raise UserError("--seeds, --startup, --trials and --loading need a --config: of which run?")
    if SEEDS.value or STARTUP.value or TRIALS.value:
        flag = flags.FLAGS["config"]
        arguments = [f"--config={config_flags.get_config_filename(flag)}",
                     *(f"--config.{field}={value}" for field, value in config_flags.get_override_values(flag).items())]
        if STARTUP.value:
            return processes.report_startup(arguments, ROUNDS.value, OUT.value)
        if TRIALS.value:
            return processes.report_trials(arguments, TRIALS.value, OUT.value)
        return processes.report_runs(arguments, SEEDS.value, OUT.value)
    tables.report(MODELS.value, PEERS.value, BATCH_SIZE.value, DTYPE.value, ROUNDS.value, OUT.value, CONFIG.value,
                  LOADING.value)


if __name__ == "__main__":
    cli.run(main)
