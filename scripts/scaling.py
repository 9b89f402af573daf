"""What to expect of many devices: the bytes that a training step sends, by its compiled program, and what follows.

    python scripts/scaling.py --models=resnet50,vgg16

Needs no device but this machine's CPU. docs/scaling.md is made of its tables and says what they take for granted.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import jax
from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import lookup

MODELS = flags.DEFINE_list("models", ["resnet50", "vgg16"], "Networks, with commas between them.")
DEVICES = flags.DEFINE_multi_integer("devices", [8, 64, 512], "A number of devices, eight a host. May be repeated.",
                                     lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a device and step.", lower_bound=1)
TFLOPS = flags.DEFINE_float("tflops", 60.6, "10^12 operations a second that a device sustains in training. The default "
                            "is an A100's at 2,470 images of ResNet-50 a second.", lower_bound=0.001)
DECODED = flags.DEFINE_float("decoded", 388, "Images that one core of a host decodes in a second.", lower_bound=0.001)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Of the computation.")


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_platforms", "cpu")
    runtime.configure()
    from modern_cnn import models
    from modern_cnn.inspection import summary
    from scripts.bench import scaling

    cluster = scaling.Cluster()
    for name in MODELS.value:
        shape, classes = lookup(models.INPUTS, name, "network")
        macs = summary.summarize(models.build(name, classes), shape).macs
        rate = TFLOPS.value * 1e12 / (3 * 2 * macs)  # forward, and twice that backward; a MAC is two operations
        compute = BATCH_SIZE.value / rate
        print(f"\n{name}, {BATCH_SIZE.value} images a device: {macs / 1e9:.2f} GMAC an image, {rate:,.0f} images/s a "
              f"device, {compute * 1e3:.1f} ms a step\n")
        print("| batch norm over | devices | small all-reduces | ms | large, MB | ms | efficiency | images/s | "
              "GB/s a host | cores a host |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for norm in ("global", "device"):
            sent = scaling.traffic(name, norm, DTYPE.value)
            for count in DEVICES.value:
                step = scaling.predict(sent, compute, count, cluster)
                host = rate * step.best * min(count, scaling.HOST)  # images/s
                print(f"| {norm} | {count} | {sent.small} | {step.small * 1e3:.1f} | {sent.large_bytes / 1e6:.1f} | "
                      f"{step.large * 1e3:.1f} | {step.worst:.1%} to {step.best:.1%} | "
                      f"{rate * count * step.worst:,.0f} to {rate * count * step.best:,.0f} | "
                      f"{host * scaling.image_bytes(name) / 1e9:.1f} | {host / DECODED.value:.0f} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
