"""Predict the classes of image files, or of all images below a folder, with their probabilities.

    python scripts/predict.py --workdir=runs/mine cat.jpg dog.png
    python scripts/predict.py --workdir=runs/mine --top_k=3 --format=csv --out=found.csv photos/
    python scripts/predict.py --workdir=runs/mine --embeddings=features.npz photos/

Images are resized and normalised as in training. CSV has the columns file, rank, class, probability. A file that cannot
be read is named and skipped; the exit code is then 1.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime, settings

WORKDIR = cli.define_trained(required=True)
TOP_K = flags.DEFINE_integer("top_k", 1, "Number of classes for each file, the most probable first.", lower_bound=1,
                             upper_bound=settings.MOST_CLASSES)
FORMAT = flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "Format of the output.")
OUT = flags.DEFINE(cli.Path(), "out", None, "File to write to; by default the terminal.")
EMBEDDINGS = flags.DEFINE(cli.Path(), "embeddings", None, "File to write the features before the head to, as npz: "
                          "names [N] and features [N, D].")


def main(*paths: str) -> None:
    runtime.configure()
    from modern_cnn.reuse import predict

    predict.report(WORKDIR.value, paths, top_k=TOP_K.value, format=FORMAT.value, out=OUT.value or "",
                   embeddings=EMBEDDINGS.value or "")


if __name__ == "__main__":
    cli.run(main, positional=True)
