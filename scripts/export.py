"""Write the network of a run to one file that other programs load without this package.

    python scripts/export.py --workdir=runs/mine --out=mine.stablehlo
    python scripts/export.py --workdir=runs/mine --out=mine.onnx --format=onnx

StableHLO: any batch size, on CPUs, GPUs and TPUs. A program needs jax and flatbuffers to load it. ONNX: for onnxruntime
and other programs that read ONNX. It is written by jax2onnx, which needs its own environment:
`python3 -m venv .venv-onnx && .venv-onnx/bin/pip install -r requirements-onnx.txt`, then .venv-onnx/bin/python.

The script prints the code that loads the file. Images are float32 [N, H, W, C], normalised as in training. OUT.json,
written beside the file, holds their shape, mean and deviation, and the names of the classes.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime

WORKDIR = cli.define_trained(required=True)
OUT = flags.DEFINE(cli.Path(), "out", None, "File to write; OUT.json beside it describes the network.", required=True)
FORMAT = flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "onnx"], "Format of the file.")
PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda", "rocm", "tpu"], "Platforms that the StableHLO can run on.")


def main() -> None:
    runtime.configure()
    from modern_cnn.reuse import export

    done = export.export_run(WORKDIR.value, OUT.value, FORMAT.value, PLATFORMS.value)
    print(f"wrote {done.path} ({done.path.stat().st_size:,} bytes) and {done.info}\n"
          f"its logits differ from the checkpoint's by at most {done.difference:.1g}; the largest logit is "
          f"{done.largest:.3g}\n\n{done.loading}")


if __name__ == "__main__":
    cli.run(main)
