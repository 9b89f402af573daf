"""Run the parts of scripts/ablations/ that are not sweeps, and write the pages in docs/ablations/.

    python scripts/ablate.py --what=publish
    python scripts/ablate.py --what=contours --workdir=runs/ablations/contours
    python scripts/ablate.py --what=handmade --config=configs/lenet.py --workdir=runs/ablations/features/hog
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WHAT = flags.DEFINE_enum("what", None, ["contours", "gradients", "gridding", "handmade", "publish"], "contours: "
                         "gradient descent over badly scaled inputs; gradients: the picture of the experiment that has "
                         "run in --workdir; gridding: the pixels that stacked dilated convolutions see; handmade: "
                         "histograms of oriented gradients and a linear classifier; publish: the pages of all "
                         "experiments that have run.", required=True)
CONFIG = config_flags.DEFINE_config_file("config", None, "For handmade: the config whose `data` section is used.")
WORKDIR = flags.DEFINE(cli.Path(), "workdir", None, "The directory of the experiment; not for publish.")
SIZES = flags.DEFINE(cli.Numbers(1), "sizes", [300, 1000, 3000, 10000], "For handmade: numbers of training images.")
RUNS = flags.DEFINE(cli.Path(), "runs", str(ROOT / "runs/ablations"), "For publish: where the experiments have run.")
NAMES = flags.DEFINE_list("names", [], "For publish: write the pages of these experiments only.")


def main():
    runtime.configure()
    if WHAT.value == "publish":
        from scripts.publish import ablations

        places = ROOT / "scripts/ablations", Path(RUNS.value), ROOT / "docs/ablations"
        print("\n".join(ablations.publish(*places, NAMES.value)))
        return
    from modern_cnn import settings
    from modern_cnn.runs import workdir
    from scripts.ablations import computed, gradients

    if WORKDIR.value is None or (WHAT.value == "handmade" and CONFIG.value is None):
        raise UserError(f"--what={WHAT.value} needs --workdir" + " and --config" * (WHAT.value == "handmade"))
    directory = Path(WORKDIR.value)
    with workdir.disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if WHAT.value == "handmade":
            computed.handmade_experiment(directory, settings.read(CONFIG.value).data, SIZES.value)
        else:
            {"contours": computed.contour_experiment, "gradients": gradients.draw_picture,
             "gridding": computed.gridding_experiment}[WHAT.value](directory)


if __name__ == "__main__":
    cli.run(main)
