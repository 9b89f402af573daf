"""Time training steps, forward passes, epochs or whole runs, ours in turn with other programs.

    python scripts/benchmark.py --models=lenet,resnet18_cifar --peer=torch --out=steps.json
    python scripts/benchmark.py --models=lenet,resnet18_cifar --peer=torch,torch_compile --evaluation
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

CONFIG = config_flags.DEFINE_config_file("config", None, "Time epochs of this config, with loading and testing, not "
                                         "steps. The peer torch loads images by PIL and DataLoader.")
MODELS = flags.DEFINE_list("models", [], "Networks, separated by commas; by default eight, from LeNet to "
                           "DenseNet.")
PEERS = flags.DEFINE_list("peer", ["torch"], "Programs to compare with, separated by commas: torch, torch_compile, "
                          "library, torch_kept (keeps memory as our scripts do), ours_system (ours, which does not); "
                          "for epochs torch; for loading torch, tf.data.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images in a batch; 0: the network's own number.", lower_bound=0,
                                  upper_bound=65_536)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Number format of the computation.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each program is timed.", lower_bound=1, upper_bound=10_000)
SEEDS = flags.DEFINE_integer("seeds", 0, "With --config: time this many whole runs of scripts/train.py instead, with "
                             "empty caches, and print their test accuracy.", lower_bound=0, upper_bound=10_000)
TRIALS = flags.DEFINE_integer("trials", 0, "With --config: time this many seeds in one scripts/sweep.py together, one "
                              "after the other, and as runs of scripts/train.py.", lower_bound=0, upper_bound=10_000)
STARTUP = flags.DEFINE_bool("startup", False, "With --config: time a run from its command to its first step.")
LOADING = flags.DEFINE_bool("loading", False, "With --config of a streamed folder: time only the loading of images.")
EVALUATION = flags.DEFINE_bool("evaluation", False, "Time the forward pass in evaluation instead of training steps.")
OPERATIONS = flags.DEFINE_bool("operations", False, "Print where the time of one step goes, ours and PyTorch's.")
OUT = flags.DEFINE(cli.Path(), "out", None, "Also write the measurements to this JSON file, with machine and versions.")


def _config_arguments() -> list[str]:
    """Return --config=... and its overrides, as they were given."""
    flag = flags.FLAGS["config"]
    return [f"--config={config_flags.get_config_filename(flag)}",
            *(f"--config.{field}={value}" for field, value in config_flags.get_override_values(flag).items())]


def main() -> None:
    out = OUT.value or ""
    runtime.configure(cache=False)  # with the cache, a compilation could be the reading of a file
    from modern_cnn import settings
    from scripts.bench import epochs, operations, steps, timing

    if EVALUATION.value and (OPERATIONS.value or CONFIG.value):
        raise UserError("--evaluation times the networks of --models; leave out --operations and --config")
    if OPERATIONS.value and out:
        raise UserError("--operations prints its tables and writes no file: leave out --out")
    for name in ("models", "batch_size", "dtype"):
        if CONFIG.value and flags.FLAGS[name].present:
            raise UserError(f"--config times the run that it describes: leave out --{name}")
    if OPERATIONS.value:
        operations.report_operations(steps.make_cases(MODELS.value, BATCH_SIZE.value, DTYPE.value), ROUNDS.value)
    elif not CONFIG.value:
        if SEEDS.value or LOADING.value or STARTUP.value or TRIALS.value:
            raise UserError("--seeds, --startup, --trials and --loading need a --config: of which run?")
        phase = "evaluation" if EVALUATION.value else "step"
        timing.report(f"ms, {phase}", DTYPE.value, ROUNDS.value, out,
                      lambda case: steps.compare_steps(case, PEERS.value, ROUNDS.value, phase),
                      steps.make_cases(MODELS.value, BATCH_SIZE.value, DTYPE.value), steps.KEEPING_SAID)
    elif STARTUP.value:
        timing.report_startup(_config_arguments(), ROUNDS.value, out)
    elif TRIALS.value:
        timing.report_trials(_config_arguments(), TRIALS.value, out)
    elif SEEDS.value:
        timing.report_runs(_config_arguments(), SEEDS.value, out)
    else:
        config = settings.read(CONFIG.value)
        dtype = "uint8" if LOADING.value else config.model.get("dtype") or "float32"
        timing.report("ms an epoch", dtype, ROUNDS.value, out,
                      lambda config: epochs.compare_epochs(config, PEERS.value, ROUNDS.value, LOADING.value), [config])


if __name__ == "__main__":
    cli.run(main)
