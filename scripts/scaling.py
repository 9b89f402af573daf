"""Estimates training on many devices from the bytes that a step sends between them, according to its compiled program.

    python scripts/scaling.py --models=resnet50,vgg16

Needs only this machine's CPU. docs/scaling.md holds its tables, and the assumptions behind them.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import jax
from absl import flags

from modern_cnn import cli, runtime

MODELS = flags.DEFINE_list("models", ["resnet50", "vgg16"], "Networks, separated by commas.")
DEVICES = flags.DEFINE_multi_integer("devices", [8, 64, 512], "A number of devices, eight a host. May be repeated.",
                                     lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a device and step.", lower_bound=1)
TFLOPS = flags.DEFINE_float("tflops", 60.6, "10^12 operations a second that a device sustains in training. The default "
                            "is an A100's at 2,470 images of ResNet-50 a second.", lower_bound=0.001)
DECODED = flags.DEFINE_float("decoded", 388, "Images that one core of a host decodes in a second.", lower_bound=0.001)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Number format of the computation.")


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_platforms", "cpu")
    runtime.configure()
    from modern_cnn.sweeps.seeds import markdown_table
    from scripts.bench import scaling

    for name in MODELS.value:
        line, rows = scaling.estimate(name, DEVICES.value, BATCH_SIZE.value, DTYPE.value, TFLOPS.value, DECODED.value)
        print("", line, "", markdown_table(rows), sep="\n", end="", flush=True)


if __name__ == "__main__":
    cli.run(main)
