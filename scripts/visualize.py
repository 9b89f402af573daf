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

WHATS = ("filters", "features", "deconv", "saliency", "gradcam", "occlusion", "batch_norm", "surface", "augment")

WHAT = flags.DEFINE_enum("what", None, WHATS, "The picture to draw; see above.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run, made by scripts/train.py or import_weights.py.")
CONFIG = config_flags.DEFINE_config_file("config", None, "For augment: a config instead of a run.")
OUT = flags.DEFINE_string("out", None, "The PNG file to write; by default WHAT.png in the workdir.")
SPLIT = flags.DEFINE_string("split", "test", "The split that the images come from: train, validation or test.")
SOURCE = flags.DEFINE_string("source", "", "Images of this data source instead of the run's own, e.g. folder:DIR.")
IMAGES = flags.DEFINE_list("images", [], "Numbers of images in the split; by default one of each class in turn, "
                           "--count in all.")
COUNT = flags.DEFINE_integer("count", 6, "How many images, or units.", lower_bound=1)
LAYER = flags.DEFINE_string(
    "layer", None, "A stage, or a module by its path: stage2, block3/conv1. By default the last stage of at least 4x4 "
    "pixels; for features all of these.")
UNITS = flags.DEFINE_list("units", [], "For deconv: channels of the layer; by default those that respond most.")
OTHER = flags.DEFINE_string("other", None, "For surface: another run of the same network.")


def numbers(flag) -> list[int]:
    """Return the whole numbers of a list flag."""
    try:
        return [int(word) for word in flag.value]
    except ValueError:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: not whole numbers with commas between them") from None


def draw(what: str | None, out: Path) -> Path:
    """Draw one of WHATS with the values of the flags that it needs."""
    from modern_cnn import settings
    from modern_cnn.inspection import views

    images, layer, count = numbers(IMAGES), LAYER.value, COUNT.value
    if what == "augment":
        if bool(CONFIG.value) == bool(WORKDIR.value):
            raise UserError("augment takes either --config or --workdir")
        chosen = WORKDIR.value or settings.read(CONFIG.value)
        return views.draw_augmentation(chosen, out, images, count, SOURCE.value)
    if not WORKDIR.value:
        raise UserError("--workdir is missing: the directory of a trained run")
    network = views.TrainedNetwork(WORKDIR.value, SPLIT.value, SOURCE.value)
    match what:
        case "filters":
            return views.draw_filters(network, out)
        case "features":
            return views.draw_features(network, out, images, layer)
        case "deconv":
            return views.draw_deconvolution(network, out, layer, numbers(UNITS), count)
        case "saliency":
            return views.draw_saliency(network, out, images, count)
        case "gradcam":
            return views.draw_grad_cam(network, out, images, count, layer)
        case "occlusion":
            return views.draw_occlusion(network, out, images, count)
        case "batch_norm":
            return views.draw_batch_norm(WORKDIR.value, out)
        case _:  # surface
            return views.draw_surface(network, out, OTHER.value)


def main() -> None:
    runtime.configure()
    if WORKDIR.value == "":
        raise UserError("--workdir is empty; is a shell variable unset?")
    if not OUT.value and not WORKDIR.value:
        raise UserError("--workdir is missing" + (", or --out for the picture" if WHAT.value == "augment" else ""))
    print(draw(WHAT.value, Path(OUT.value or f"{WORKDIR.value}/{WHAT.value}.png")))


if __name__ == "__main__":
    flags.mark_flag_as_required("what")
    cli.run(main)
