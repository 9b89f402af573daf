"""Estimate training on many devices from the bytes that the compiled step sends between them.

    python scripts/scaling.py --models=resnet50,vgg16

Needs only this machine's CPU. docs/scaling.md holds its tables, and the assumptions behind them.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import jax
from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

MODELS = flags.DEFINE_list("models", ["resnet50", "vgg16"], "Networks, separated by commas.")
DEVICES = flags.DEFINE_multi_integer("devices", [8, 64, 512], "A number of devices, eight a host. May be repeated.",
                                     lower_bound=1, upper_bound=1_000_000)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a device and step.", lower_bound=1, upper_bound=65_536)
TFLOPS = flags.DEFINE(cli.Number(0.001, 1e6), "tflops", 60.6, "10^12 operations a second that a device sustains in "
                      "training. The default is an A100's at 2,470 images of ResNet-50 a second.")
DECODED = flags.DEFINE(cli.Number(0.001, 1e9), "decoded", 388, "Images that one core of a host decodes in a second.")
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Number format of the computation.")


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_platforms", "cpu")
    runtime.configure()
    from modern_cnn.sweeps.report import markdown_table
    from scripts.bench import scaling, timing

    if not MODELS.value:
        raise UserError("--models is empty; is a shell variable unset?")
    for name in timing.along(MODELS.value, "networks"):
        line, rows = scaling.estimate(name, DEVICES.value, BATCH_SIZE.value, DTYPE.value, TFLOPS.value, DECODED.value)
        print("", line, "", markdown_table(rows), sep="\n", end="", flush=True)


if __name__ == "__main__":
    cli.run(main)
