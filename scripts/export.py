"""Writes a run's network to one file that other programs load without this package.

    python scripts/export.py --workdir=runs/mine --out=mine.stablehlo
    python scripts/export.py --workdir=runs/mine --out=mine.onnx --format=onnx

StableHLO: any batch size, on CPUs, GPUs and TPUs; a process that has jax and flatbuffers loads it:

    network = jax.export.deserialize(pathlib.Path("mine.stablehlo").read_bytes())
    logits = network.call(images)

ONNX: for onnxruntime, and all else that reads it; written by jax2onnx, in an environment of its own:
`python3 -m venv .venv-onnx && .venv-onnx/bin/pip install -r requirements-onnx.txt`, then .venv-onnx/bin/python.

Images are float32 [N, H, W, C], normalised as in training; shape, mean, deviation and the names of the classes are in
OUT.json beside the file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run that was trained or imported.")
OUT = flags.DEFINE_string("out", None, "File to write; OUT.json beside it says what a program must know.")
FORMAT = flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "onnx"], "What to write.")
PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "rocm", "tpu"], "Where the StableHLO is to run.")


def main():
    for flag in (WORKDIR, OUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is empty; is a shell variable unset?")
    runtime.configure()
    from modern_cnn.reuse import export

    done = export.export_run(WORKDIR.value, OUT.value, FORMAT.value, PLATFORMS.value)
    print(f"{done.path}, {done.path.stat().st_size:,} bytes, and {done.info}: its logits are within "
          f"{done.difference:.1g} of the checkpoint's, of which the largest is {done.largest:.3g}\n\n{done.loading}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "out"])
    cli.run(main)
