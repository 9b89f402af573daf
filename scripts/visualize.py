"""Draw what a trained network has learnt, as a PNG file. The last line is the file's name.

    python scripts/visualize.py --what=filters --workdir=runs/mine
    python scripts/visualize.py --what=deconv --workdir=runs/mine --layer=stage2 --count=6
    python scripts/visualize.py --what=surface --workdir=runs/mine --other=runs/another
    python scripts/visualize.py --what=augment --config=configs/vgg.py:vgg16 --out=augment.png

filters     the first convolution's kernels
features    feature maps of an image, at all stages or at --layer
deconv      a layer's strongest activations sent back to the pixels, beside what they saw (Zeiler and Fergus 2013)
saliency    how much each pixel moves the true class's logit (Simonyan et al. 2013)
gradcam     the evidence for the true class in a layer, --layer (Selvaraju et al. 2016)
occlusion   the true class's probability while a square covers each place (Zeiler and Fergus 2013)
batch_norm  how the running statistics moved in training; the run needs --config.log_norms=true
gradients   the size of each layer's gradient at some steps of training; the run needs --config.log_norms=true
surface     the loss along random directions, and on the way from the initial weights or from --other
augment     training images beside augmented versions of them, for a config or a run
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags
from ml_collections import config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

# The flags of each picture. It is drawn by the function draw_WHAT of inspection/views.py.
WHATS = {"filters": [], "features": ["images", "layer"], "deconv": ["layer", "units", "count"],
         "saliency": ["images", "count"], "gradcam": ["images", "count", "layer"], "occlusion": ["images", "count"],
         "batch_norm": [], "gradients": [], "surface": ["other"], "augment": ["images", "count", "source"]}
OF_NO_IMAGES = ("filters", "batch_norm", "gradients")

WHAT = flags.DEFINE_enum("what", None, list(WHATS), "The picture to draw; see above.", required=True)
WORKDIR = cli.define_trained()
CONFIG = config_flags.DEFINE_config_file("config", None, "For augment: a config instead of a run.")
OUT = flags.DEFINE(cli.Path(), "out", None, "The PNG, PDF or SVG file to write; by default WHAT.png in the workdir, or "
                   "NAME-WHAT.png for zoo:NAME, hub:USER/NAME and gs://BUCKET/NAME.")
SPLIT = flags.DEFINE_string("split", "test", "The split that the images come from: train, validation or test.")
SOURCE = flags.DEFINE_string("source", "", "Images of this data source instead of the run's own, e.g. folder:DIR.")
IMAGES = flags.DEFINE(cli.Numbers(), "images", [], "Indices of images in the split, from 0; by default one of each "
                      "class in turn, --count in all.")
COUNT = flags.DEFINE_integer("count", 6, "How many images, or units.", lower_bound=1, upper_bound=100)
LAYER = flags.DEFINE_string("layer", None, "A stage, or a module by its path: stage2, block3/conv1. By default the "
                            "last stage of at least 4x4 pixels; for features all of these.")
UNITS = flags.DEFINE(cli.Numbers(), "units", [], "For deconv: channels; by default those that respond most.")
OTHER = flags.DEFINE(cli.Workdir(), "other", None, "For surface: another run of the same network.")


def main() -> None:
    runtime.configure()
    from modern_cnn import buckets, settings, zoo
    from modern_cnn.inspection import views

    what, workdir = WHAT.value, WORKDIR.value
    if not OUT.value and not workdir:
        raise UserError("--workdir is missing" + (", or --out for the picture" if what == "augment" else ""))
    stored, bucket = zoo.named(workdir or ""), buckets.url_of(workdir or "").rpartition("/")[2]
    trained = Path(stored).stem if stored else bucket
    out = Path(OUT.value or (f"{trained}-{what}.png" if trained else f"{workdir}/{what}.png"))
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out={out} must end in .png, .pdf or .svg")
    used = {*WHATS[what], *(["config"] if what == "augment" else [] if what in OF_NO_IMAGES else ["split", "source"])}
    for name in ("images", "units", "count", "layer", "other", "source", "split", "config"):
        if flags.FLAGS[name].present and name not in used:
            raise UserError(f"--{name} has no meaning for --what={what}")
    values = {"images": IMAGES.value, "units": UNITS.value, "count": COUNT.value, "layer": LAYER.value,
              "other": OTHER.value, "source": SOURCE.value}
    if what != "augment":
        if not workdir:
            raise UserError("--workdir is missing: the directory of a trained run")
        subject = views.TrainedNetwork(Path(workdir), SPLIT.value, SOURCE.value)
    elif bool(CONFIG.value) == bool(workdir):
        raise UserError("augment takes either --config or --workdir")
    else:
        subject = Path(workdir) if workdir else settings.read(CONFIG.value)
    draw = getattr(views, f"draw_{what}")
    print(draw(subject, out, **{name: values[name] for name in WHATS[what]}))


if __name__ == "__main__":
    cli.run(main)
