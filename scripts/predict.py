"""Names what a trained network sees in image files, or in all images below a folder, with probabilities.

    python scripts/predict.py --workdir=runs/mine cat.jpg dog.png
    python scripts/predict.py --workdir=runs/mine --top_k=3 --format=csv --out=found.csv photos/

Images are resized and normalised as in training. CSV has the columns file, rank, class, probability. Files that cannot
be read are named and skipped; the exit code is then 1.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run that was trained or imported.")
TOP_K = flags.DEFINE_integer("top_k", 1, "How many classes to name, the likeliest first.", lower_bound=1)
FORMAT = flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "What to write.")
OUT = flags.DEFINE_string("out", "", "File to write instead of the terminal.")


def main(*paths):
    if not WORKDIR.value:
        raise UserError("--workdir is empty; is a shell variable unset?")
    runtime.configure()
    from modern_cnn.reuse import predict

    predict.report(WORKDIR.value, paths, top_k=TOP_K.value, format=FORMAT.value, out=OUT.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main, positional=True)
