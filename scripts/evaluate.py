"""Scores a trained run on its test split (or another). The last line is a JSON object with accuracy, loss and count.

    python scripts/evaluate.py --workdir=runs/mine
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run that scripts/train.py made.")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
SOURCE = flags.DEFINE_string("source", None, "Score on this data source instead of the run's own, e.g. idx:DIR.")


def main():
    runtime.configure()
    from modern_cnn.runs import load as evaluation

    if not WORKDIR.value:
        raise UserError("--workdir is empty; is a shell variable unset?")
    data = {"source": SOURCE.value} if SOURCE.value else None
    print(json.dumps(evaluation.evaluate_workdir(WORKDIR.value, SPLIT.value, data)))


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main)
