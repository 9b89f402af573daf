"""Score a trained run on its test split, or another. The last line is a JSON object with accuracy, loss and count.

    python scripts/evaluate.py --workdir=runs/mine
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WORKDIR = cli.define_trained(required=True)
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
SOURCE = flags.DEFINE_string("source", None, "Data source to score on, by default that of the run, e.g. idx:DIR.")
LAYOUT = flags.DEFINE_enum("layout", "auto", ["auto", "splits", "classes"], "What the folders in folder:DIR are.")


def main() -> None:
    if SOURCE.value == "":
        raise UserError("--source is empty; is a shell variable unset?")
    runtime.configure()
    from modern_cnn.runs.load import evaluate_workdir

    data = {"source": SOURCE.value, "layout": LAYOUT.value} if SOURCE.value else None
    print(json.dumps(evaluate_workdir(WORKDIR.value, SPLIT.value, data)))


if __name__ == "__main__":
    cli.run(main)
