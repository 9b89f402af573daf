"""What the experiments of scripts/ablations/ need beside sweep.py and train.py, and the pages in docs/ablations/.

    python scripts/ablate.py --what=publish
    python scripts/ablate.py --what=contours --workdir=runs/ablations/contours
    python scripts/ablate.py --what=handmade --config=configs/lenet.py --workdir=runs/ablations/features/hog
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WHAT = flags.DEFINE_enum("what", None, ["contours", "handmade", "publish"],
                         "contours: gradient descent over badly scaled inputs; handmade: histograms of oriented "
                         "gradients and a linear classifier; publish: the pages of all experiments that have run.")
CONFIG = config_flags.DEFINE_config_file("config", None, "Of handmade: whose `data` section says which images.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the experiment.")
SIZES = flags.DEFINE_list("sizes", ["300", "1000", "3000", "10000"], "Of handmade: how many training images.")
RUNS = flags.DEFINE_string("runs", str(ROOT / "runs" / "ablations"), "Of publish: where the experiments have run.")
NAMES = flags.DEFINE_list("names", [], "Of publish: these alone.")


def main():
    runtime.configure()
    from scripts.publish import ablations

    if WHAT.value == "publish":
        print("\n".join(ablations.publish(ROOT / "scripts" / "ablations", Path(RUNS.value), ROOT / "docs" / "ablations",
                                          NAMES.value)))
        return
    if not WORKDIR.value:
        raise UserError("--workdir is missing")
    if WHAT.value == "contours":
        return ablations.contour_experiment(Path(WORKDIR.value))
    if CONFIG.value is None or not all(size.isdigit() for size in SIZES.value):
        raise UserError("--what=handmade needs --config, and --sizes as whole numbers: --sizes=300,1000")
    ablations.handmade_experiment(Path(WORKDIR.value), CONFIG.value.data, [int(size) for size in SIZES.value])


if __name__ == "__main__":
    flags.mark_flag_as_required("what")
    cli.run(main)
