"""Print the layers of a network and their totals, without weights or data.

    python scripts/summarize.py --model=resnet50
    python scripts/summarize.py --model=vgg11_d2l --option=width=0.25 --image_size=96 --json
    python scripts/summarize.py --list
"""
import dataclasses
import inspect
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

from absl import flags

from modern_cnn import cli, runtime, settings
from modern_cnn.errors import UserError, lookup

MODEL = flags.DEFINE_string("model", None, "A network; --list prints their names.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Height and width of the images, in pixels. Like --channels and --num_classes, by default what "
    "the network was published for.", lower_bound=1, upper_bound=settings.LARGEST_IMAGE)
CHANNELS = flags.DEFINE_integer("channels", None, "Channels of the images.", lower_bound=1, upper_bound=1000)
NUM_CLASSES = flags.DEFINE_integer("num_classes", 0, "Number of classes; 0: the default.", lower_bound=0,
                                   upper_bound=settings.MOST_CLASSES)
OPTION = flags.DEFINE_multi_string("option", [], "An option of the network: --option=width=0.25. May be repeated.")
JSON = flags.DEFINE_bool("json", False, "Print a JSON object instead of a table; with --list, a list of objects.")
LIST = flags.DEFINE_bool("list", False, "Print every network, with its totals at the input it was published for.")


def overview() -> None:
    """Print the totals of every network, each as soon as it is summarised."""
    from modern_cnn import models
    from modern_cnn.inspection import summary

    line, found = "{:18}  {:>11}  {:>7}  {:>11}  {:>9}  {:>14}  {:>5}", []
    if not JSON.value:
        print(line.format("network", "images", "classes", "parameters", "running", "MACs", "field"))
    for name, (image_shape, num_classes) in models.INPUTS.items():
        # With `scan` the totals are the same, and 1202 layers are traced as fast as 20.
        scan = {"scan": True} if "scan" in inspect.signature(models.MODELS[name]).parameters else {}
        totals = dataclasses.asdict(summary.summarize(models.build(name, num_classes, **scan), image_shape))
        del totals["layers"]
        found.append({"model": name, "num_classes": num_classes, **totals})
        if not JSON.value:
            counts = (f"{totals[total]:,}" for total in ("params", "bn_running_scalars", "macs"))
            print(line.format(name, "x".join(map(str, image_shape)), num_classes, *counts,
                              summary.extent(totals["receptive_field"] or ("all", "all"))), flush=True)
    if JSON.value:
        print(json.dumps(found))


def main() -> None:
    runtime.configure()
    from modern_cnn import models
    from modern_cnn.inspection import summary

    if LIST.value:
        return overview()
    if not MODEL.value:
        raise UserError("--model is missing (--list prints the networks)")
    (height, width, channels), num_classes = lookup(models.INPUTS, MODEL.value, "network")
    image_shape = (IMAGE_SIZE.value or height, IMAGE_SIZE.value or width, CHANNELS.value or channels)
    num_classes = NUM_CLASSES.value or num_classes
    found = summary.summarize(models.build(MODEL.value, num_classes, **cli.network_options(OPTION.value)), image_shape)
    if JSON.value:
        print(json.dumps({"model": MODEL.value, "num_classes": num_classes, **dataclasses.asdict(found)}))
    else:
        print(f"{MODEL.value}, images {'x'.join(map(str, image_shape))}, {num_classes:,} classes", "",
              *summary.lines(found), sep="\n")


if __name__ == "__main__":
    cli.run(main)
