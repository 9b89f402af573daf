"""Pictures of what a trained network has learnt, as PNG files. The last line is the file's name.

    python scripts/visualize.py --what=filters --workdir=runs/mine
    python scripts/visualize.py --what=deconv --workdir=runs/mine --layer=stage2 --count=6
    python scripts/visualize.py --what=surface --workdir=runs/mine --other=runs/another
    python scripts/visualize.py --what=augment --config=configs/vgg.py:vgg16 --out=augment.png

filters     the first convolution's kernels
features    feature maps of an image, all stages or --layer
deconv      a layer's strongest activations sent back to the pixels, beside what they saw (Zeiler and Fergus 2013)
saliency    how much each pixel moves the true class's logit (Simonyan et al. 2013)
gradcam     where a layer, --layer, speaks for the true class (Selvaraju et al. 2016)
occlusion   the true class's probability while a square covers each place (Zeiler and Fergus 2013)
batch_norm  how the running statistics moved in training; the run needs --config.log_norms=true
surface     the loss along random directions, and on the way from the initial weights or from --other
augment     training images and what a config, or a run's, makes of them
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from modern_cnn import cli, runtime
from modern_cnn.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run that scripts/train.py or import_weights.py made.")
CONFIG = config_flags.DEFINE_config_file("config", None, "For augment: a config instead of a run's.")
OUT = flags.DEFINE_string("out", None, "The PNG file to write; by default WHAT.png in the workdir.")
SPLIT = flags.DEFINE_string("split", "test", "Where the images come from: train, validation or test.")
SOURCE = flags.DEFINE_string("source", None, "Images of this data source instead of the run's own, e.g. folder:DIR.")
IMAGES = flags.DEFINE_list("images", [], "Their numbers in the split; by default one of each class, --count in all.")
COUNT = flags.DEFINE_integer("count", 6, "How many images, or units.", lower_bound=1)
LAYER = flags.DEFINE_string(
    "layer", None, "A stage, or a module by its path: stage2, block3/conv1. By default the last stage of at least 4x4 "
    "pixels; for features all of these.")
UNITS = flags.DEFINE_list("units", [], "For deconv: channels of the layer; by default those that respond most.")
OTHER = flags.DEFINE_string("other", None, "For surface: another run of the same network.")

POOL = 2000  # images that the strongest activations are sought in
STRONGEST = 9  # of them are shown
SURFACE_IMAGES, POINTS, DIRECTIONS = 1024, 25, 3


def numbers(flag):
    try:
        return [int(word) for word in flag.value]
    except ValueError:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: not whole numbers with commas between them") from None


class Inside:
    """A trained network and some images that it knows."""

    def __init__(self):
        from modern_cnn.runs import load as evaluation
        from modern_cnn.runs import workdir

        if not WORKDIR.value:
            raise UserError("--workdir is missing: the directory of a trained run")
        self.config, _ = workdir.read_run(Path(WORKDIR.value))
        self.module, self.variables, _, _ = evaluation.load_run(WORKDIR.value)
        self.data = evaluation.load_data(WORKDIR.value, SPLIT.value, {"source": SOURCE.value} if SOURCE.value else None)
        self.spec, self.name = self.data.spec, self.config["model"]["name"]
        self.blank = np.zeros((1, *self.spec.image_shape), np.float32)

    def examples(self, indices):
        """(pixels in [0, 1], normalised images, labels)."""
        from modern_cnn.data import augment
        from modern_cnn.runs import load as evaluation

        images, labels = evaluation.examples(self.data, SPLIT.value, np.asarray(indices))
        return images / 255.0, augment.normalize(images, self.spec.mean, self.spec.std), labels

    def spread(self, count):
        """Numbers of images, evenly over the split."""
        return np.unique(np.linspace(0, self.spec.sizes[SPLIT.value] - 1, count).round().astype(int))

    def chosen(self):
        """`examples` of --images, or of one image of each class in turn."""
        if IMAGES.value:
            return self.examples(numbers(IMAGES))

        pixels, images, labels = self.examples(self.spread(40 * COUNT.value))
        nth = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # of its class
        order = np.lexsort((labels, nth))[:COUNT.value]
        return pixels[order], images[order], labels[order]

    def layer(self):
        from modern_cnn.inspection import features

        return LAYER.value or features.stages(self.module, self.variables, self.blank)[-1]

    def said(self, images, labels):
        """'cat', or 'cat (dog 0.83)' where the network says dog."""
        import jax

        chances = np.asarray(jax.nn.softmax(self.module.apply(self.variables, images, train=False)))
        names = self.spec.class_names
        return [names[label] if row.argmax() == label else f"{names[label]}\n({names[row.argmax()]} {row.max():.2f})"
                for row, label in zip(chances, labels, strict=True)], chances[range(len(labels)), labels]


def draw_filters(out):
    from modern_cnn.inspection import features, pictures

    inside = Inside()
    name, kernel = features.first_filters(inside.module, inside.variables, inside.blank)
    kh, kw, channels, count = kernel.shape
    return pictures.filters(kernel, f"{inside.name}, {name}: {count} filters of {kh}x{kw}x{channels}", out)


def draw_features(out):
    from modern_cnn.inspection import features, pictures

    inside = Inside()
    pixels, images, labels = (values[:1] for values in inside.chosen())
    names = [LAYER.value] if LAYER.value else features.stages(inside.module, inside.variables, inside.blank)
    maps = {name: np.asarray(features.feature_maps(inside.module, inside.variables, images, name)[0]) for name in names}
    flat = [name for name, values in maps.items() if values.ndim != 3]
    if flat:
        raise UserError(f"--layer={flat[0]} has no height and width to show; choose another")
    return pictures.feature_maps(pixels[0], maps, f"{inside.name} looks at: {inside.spec.class_names[labels[0]]}", out)


def draw_deconv(out):
    import jax
    import jax.numpy as jnp

    from modern_cnn.inspection import deconvolution as deconv
    from modern_cnn.inspection import features, pictures

    inside = Inside()
    layer, arguments = inside.layer(), (inside.module, inside.variables)
    pixels, images, _ = inside.examples(inside.spread(POOL))
    maps = jax.jit(features.feature_maps, static_argnums=(0, 3))
    values, places = (np.concatenate(part) for part in zip(
        *(deconv.strongest(maps(*arguments, images[i:i + 128], layer)) for i in range(0, len(images), 128)),
        strict=True))
    best = np.argsort(-values, 0, kind="stable")[:STRONGEST]  # [9, channels]
    units = numbers(UNITS) or np.argsort(-np.take_along_axis(values, best, 0).mean(0), kind="stable")[:COUNT.value]
    if max(units) >= values.shape[1] or min(units) < 0:
        raise UserError(f"--units={','.join(UNITS.value)}: {layer} has the units 0 to {values.shape[1] - 1}")
    project, shown = jax.jit(deconv.project, static_argnums=(0, 3)), []
    field = deconv.receptive_field(*arguments, inside.blank, layer)
    for unit in units:
        rows = best[:, unit]
        seen = images[rows]
        one = deconv.keep_one(maps(*arguments, seen, layer), jnp.full(len(rows), unit), jnp.asarray(places[rows, unit]))
        back = np.asarray(project(*arguments, seen, layer, one))
        boxes = [field(place) for place in places[rows, unit]]
        shown.append({"title": f"unit {unit}"} | {
            name: np.stack([deconv.cut(image, box, outside) for image, box in zip(values, boxes, strict=True)])
            for name, values, outside in (("projections", back, 0.0), ("patches", pixels[rows], 0.5))})
    return pictures.projections(shown, f"{inside.name}, {layer}: the {STRONGEST} strongest activations of a unit sent "
                                f"back to the pixels, and what they saw", out)


def draw_saliency(out):
    import jax

    from modern_cnn.inspection import features, pictures

    inside = Inside()
    pixels, images, labels = inside.chosen()
    maps = jax.jit(features.saliency, static_argnums=0)(inside.module, inside.variables, images, labels)
    return pictures.beside(pixels, inside.said(images, labels)[0], maps, [""] * len(labels),
                           f"{inside.name}: the pixels that move the class's logit", out)


def draw_gradcam(out):
    import jax

    from modern_cnn.inspection import features, pictures

    inside = Inside()
    layer = inside.layer()
    pixels, images, labels = inside.chosen()
    maps = jax.jit(features.grad_cam, static_argnums=(0, 4))(inside.module, inside.variables, images, labels, layer)
    return pictures.beside(pixels, inside.said(images, labels)[0], maps, [""] * len(labels),
                           f"{inside.name}: where {layer} speaks for the class", out, over=0.6, smooth=True)


def draw_occlusion(out):
    from modern_cnn.inspection import features, pictures

    inside = Inside()
    pixels, images, labels = inside.chosen()
    size, stride = features.window_of(min(inside.spec.image_shape[:2]))
    maps = features.occlusion(inside.module, inside.variables, images, labels, size=size, stride=stride)
    names, chances = inside.said(images, labels)
    return pictures.beside(pixels, names, maps, [f"uncovered {chance:.2f}" for chance in chances],
                           f"{inside.name}: the class's probability with a grey square of {size}x{size} pixels here",
                           out, bar="probability")


def draw_batch_norm(out):
    from modern_cnn.inspection import pictures
    from modern_cnn.runs import log as logs
    from modern_cnn.runs import workdir

    records = logs.read_norms(Path(WORKDIR.value or ""))
    if not records or not records[0]["mean"]:
        raise UserError(f"{WORKDIR.value} has no record of batch normalisation: train with --config.log_norms=true, "
                        "and a network that has it")
    name = workdir.read_run(Path(WORKDIR.value))[0]["model"]["name"]
    return pictures.norms(records, logs.NORM_PERCENTILES, f"{name}'s batch normalisation while it trained", out)


def draw_surface(out):
    import jax

    from modern_cnn.inspection import pictures, surface
    from modern_cnn.runs import load as evaluation

    inside = Inside()
    _, images, labels = inside.examples(inside.spread(SURFACE_IMAGES))
    along = partial(surface.along, inside.module, inside.variables, images=images, labels=labels)
    steps = np.linspace(-1, 1, POINTS)
    draw = jax.jit(surface.filter_normalized)
    lines = [(f"direction {i}", *along({"params": draw(jax.random.key(i), inside.variables["params"])}, steps))
             for i in range(1, DIRECTIONS + 1)]
    panels = [{"title": "random directions, filter-normalised", "xlabel": "step; 0: the result",
               "steps": steps, "result": 0, "lines": lines}]
    if OTHER.value:
        start, label = evaluation.load_run(OTHER.value)[1], "the other run"
    else:
        key, _ = jax.random.split(jax.random.key(inside.config.get("seed", 0)))  # as training.loop.Run does
        start = dict(inside.module.init(key, inside.blank, train=False))
        label = "the initial weights"
    if jax.tree.map(np.shape, start) != jax.tree.map(np.shape, inside.variables):
        raise UserError(f"{OTHER.value} holds another network than {WORKDIR.value}")
    steps = np.linspace(-1, 0.25, POINTS)
    panels.append({"title": f"from {label} to the result", "xlabel": f"step; -1: {label}, 0: the result",
                   "steps": steps, "result": 0,
                   "lines": [("the line", *along(surface.difference(inside.variables, start), steps))]})
    return pictures.surface(panels, f"{inside.name}: loss and accuracy on {len(labels):,} images of {SPLIT.value}", out)


def draw_augment(out):
    import jax

    from modern_cnn.data import augment, sources
    from modern_cnn.inspection import pictures
    from modern_cnn.runs import load as evaluation
    from modern_cnn.runs import workdir

    if bool(CONFIG.value) == bool(WORKDIR.value):
        raise UserError("augment takes either --config or --workdir")
    config = CONFIG.value or ConfigDict(workdir.read_run(Path(WORKDIR.value))[0])
    if SOURCE.value:
        config.data.source = SOURCE.value
    data = sources.load(config.data)
    indices = numbers(IMAGES) or np.linspace(0, data.spec.sizes["train"] - 1, COUNT.value).astype(int)
    images, labels = evaluation.examples(data, "train", np.asarray(indices))
    draws = [augment.augment(jax.random.key(i), images, config.augment) for i in range(8)]
    return pictures.augmented(images / 255.0, [data.spec.class_names[label] for label in labels],
                              np.clip(np.stack(draws) / 255.0, 0, 1), f"{config.model.name}'s training images", out)


DRAW = {"filters": draw_filters, "features": draw_features, "deconv": draw_deconv, "saliency": draw_saliency,
        "gradcam": draw_gradcam, "occlusion": draw_occlusion, "batch_norm": draw_batch_norm, "surface": draw_surface,
        "augment": draw_augment}
WHAT = flags.DEFINE_enum("what", None, list(DRAW), "What to draw; see above.")


def main():
    runtime.configure()
    if WORKDIR.value == "":
        raise UserError("--workdir is empty; is a shell variable unset?")
    if not OUT.value and not WORKDIR.value:
        raise UserError("--workdir is missing" + (", or --out for the picture" if WHAT.value == "augment" else ""))
    print(DRAW[WHAT.value](Path(OUT.value or f"{WORKDIR.value}/{WHAT.value}.png")))


if __name__ == "__main__":
    flags.mark_flag_as_required("what")
    cli.run(main)
