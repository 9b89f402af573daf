"""Print the layers of a network and their totals, without weights or data.

    python scripts/summarize.py --model=resnet50
    python scripts/summarize.py --model=vgg11_d2l --option=width=0.25 --image_size=96 --json
    python scripts/summarize.py --model=mlp --batch=32
    python scripts/summarize.py --list
"""
import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

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
BATCH = flags.DEFINE_integer(
    "batch", 0, "Print too how much memory a training step on so many images takes on the device at hand: it is "
    "compiled, not run. Momentum takes the bytes of the parameters once more, Adam twice.", lower_bound=0,
    upper_bound=1_000_000)
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


def training_bytes(module: Any, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return what XLA allocates for a step of plain SGD: variables and images, and all that is computed from them."""
    import jax
    import jax.numpy as jnp
    import optax

    from modern_cnn.inspection.summary import allocated
    from modern_cnn.training.state import TrainState
    from modern_cnn.training.steps import train_step

    key, images = jax.random.key(0), jax.ShapeDtypeStruct((BATCH.value, *image_shape), jnp.float32)
    state = jax.eval_shape(lambda: TrainState.create(key, module, optax.sgd(0.1), image_shape))
    batch = {"image": images, "label": jax.ShapeDtypeStruct((BATCH.value,), jnp.int32)}
    program = jax.jit(train_step, donate_argnums=0).lower(state, batch, key).compile()
    return dict(zip(("held", "computed"), allocated(program), strict=True))


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
    module = models.build(MODEL.value, num_classes, **cli.network_options(OPTION.value))
    found = summary.summarize(module, image_shape)
    training = {"training_bytes": training_bytes(module, image_shape)} if BATCH.value else {}
    if JSON.value:
        print(json.dumps({"model": MODEL.value, "num_classes": num_classes, **dataclasses.asdict(found)} | training))
    else:
        print(f"{MODEL.value}, images {'x'.join(map(str, image_shape))}, {num_classes:,} classes", "",
              *summary.lines(found), sep="\n")
        if training:
            held, computed = (summary.scaled(size, "B", 1024) for size in training["training_bytes"].values())
            print(f"training step: {held} of variables and images, {computed} computed, at a batch of {BATCH.value:,}")


if __name__ == "__main__":
    cli.run(main)
