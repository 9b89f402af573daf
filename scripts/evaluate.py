"""Score a trained run on its test split, or another. The last line is a JSON object with accuracy, loss and count.

    python scripts/evaluate.py --workdir=runs/mine
    python scripts/evaluate.py --workdir=runs/mine --report=runs/mine/report

The report is a page, report.html, with figures by class, the confusion matrix, the worst images and the calibration.
Beside it are its tables as CSV and its pictures as PNG.
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
SOURCE = flags.DEFINE_string("source", None, "Data source to score on, by default that of the run, e.g. idx:DIR. If a "
                             "folder has no test split, it is the fifth that train.py holds out.")
LAYOUT = flags.DEFINE_enum("layout", "auto", ["auto", "splits", "classes"], "What the folders in folder:DIR are.")
SKIP = flags.DEFINE_bool("skip_damaged", False, "Leave out image files of --source that do not decode.")
REPORT = flags.DEFINE(cli.Path(), "report", None, "Folder to write a report into: figures by class, confusions, the "
                      "worst images, calibration.")


def main() -> None:
    if SOURCE.value == "":
        raise UserError("--source is empty; is a shell variable unset?")
    runtime.configure()
    if not SOURCE.value and (LAYOUT.value != "auto" or SKIP.value):
        raise UserError("--layout and --skip_damaged are for images of another --source, which is missing")
    data = {"source": SOURCE.value, "layout": LAYOUT.value, "skip_damaged": SKIP.value} if SOURCE.value else None
    if REPORT.value:
        from modern_cnn.reuse import report

        scores = report.write(Path(REPORT.value), WORKDIR.value, SPLIT.value, data)
        print(f"{Path(REPORT.value) / 'report.html'} has the report")
    else:
        from modern_cnn.runs.load import evaluate_workdir

        scores = evaluate_workdir(WORKDIR.value, SPLIT.value, data)
    print(json.dumps(scores))


if __name__ == "__main__":
    cli.run(main)
