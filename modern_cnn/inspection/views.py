"""Pictures of a trained network: each function draws one for a run's result and returns the path of its PNG file."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.data import augment, sources
from modern_cnn.data.sources import Dataset
from modern_cnn.errors import UserError
from modern_cnn.inspection import deconvolution, features, pictures, surface
from modern_cnn.runs import load, log, workdir
from modern_cnn.settings import Settings, from_json

POOL = 2000  # images among which the strongest activations are looked for
STRONGEST = 9  # activations of a unit that are shown
SURFACE_IMAGES, POINTS, DIRECTIONS = 1024, 25, 3


@dataclass(frozen=True)
class TrainedNetwork:
    """The result of a run, and the split of its data that images are taken from.

    Attributes:
      directory: the run's workdir.
      split: train, validation or test.
      source: another data source than the run's own, with the same classes and shapes; empty: the run's own.
    """
    directory: str | Path
    split: str = "test"
    source: str = ""

    @cached_property
    def run(self) -> load.TrainedRun:
        """The run's network."""
        return load.load_run(self.directory)

    @cached_property
    def data(self) -> Dataset:
        """The run's data set, normalised as in training."""
        return load.load_data(self.directory, self.split, {"source": self.source} if self.source else None)

    @property
    def name(self) -> str:
        return self.run.settings.model["name"]

    @property
    def blank(self) -> np.ndarray:
        """One image of zeros, float32 [1, H, W, C]."""
        return np.zeros((1, *self.run.spec.image_shape), np.float32)

    def examples(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, jax.Array, np.ndarray]:
        """Return (pixels in [0, 1], normalised images, labels) of the split's images with these numbers."""
        images, labels = load.examples(self.data, self.split, np.asarray(indices))
        return images / 255.0, augment.normalize(images, self.data.spec.mean, self.data.spec.std), labels

    def spread(self, count: int) -> tuple[np.ndarray, jax.Array, np.ndarray]:
        """Return `examples` of `count` images, evenly over the split; all of them where it has fewer."""
        return self.examples(np.unique(np.linspace(0, self.data.spec.sizes[self.split] - 1, count).round().astype(int)))

    def choose(self, indices: Sequence[int], count: int = 6) -> tuple[np.ndarray, jax.Array, np.ndarray]:
        """Return `examples` of `indices`; where these are none, of one image of each class in turn, `count` in all."""
        if indices:
            return self.examples(indices)
        pixels, images, labels = self.spread(40 * count)
        nth = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # of its class
        order = np.lexsort((labels, nth))[:count]
        return pixels[order], images[order], labels[order]

    def last_stage(self) -> str:
        """Return the name of the last stage of at least 4x4 pixels."""
        return features.stages(self.run.module, self.run.variables, self.blank)[-1]

    def describe(self, images: jax.Array, labels: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return (captions, probabilities of the labels); a caption is 'cat', or 'cat (dog 0.83)' if the answer is dog.
        """
        chances = np.asarray(jax.nn.softmax(features.class_logits(self.run.module, self.run.variables, images)))
        names = self.data.spec.class_names
        return [names[label] if row.argmax() == label else f"{names[label]}\n({names[row.argmax()]} {row.max():.2f})"
                for row, label in zip(chances, labels, strict=True)], chances[range(len(labels)), labels]


def draw_filters(network: TrainedNetwork, out: Path) -> Path:
    """Draw the kernels of the first convolution."""
    name, kernel = features.first_filters(network.run.module, network.run.variables, network.blank)
    kh, kw, channels, count = kernel.shape
    return pictures.filters(np.asarray(kernel), f"{network.name}, {name}: {count} filters of {kh}x{kw}x{channels}", out)


def draw_features(network: TrainedNetwork, out: Path, indices: Sequence[int] = (), layer: str | None = None) -> Path:
    """Draw the feature maps of the first chosen image, at a layer or at every stage of at least 4x4 pixels."""
    module, variables = network.run.module, network.run.variables
    pixels, images, labels = network.choose(indices)
    names = [layer] if layer else features.stages(module, variables, network.blank)
    maps = {name: np.asarray(features.feature_maps(module, variables, images[:1], name)[0]) for name in names}
    flat = [name for name, values in maps.items() if values.ndim != 3]
    if flat:
        raise UserError(f"the layer {flat[0]} has no height and width to show: choose another layer")
    answer = network.data.spec.class_names[labels[0]]
    return pictures.feature_maps(pixels[0], maps, f"{network.name} looks at: {answer}", out)


def draw_deconvolution(network: TrainedNetwork, out: Path, layer: str | None = None, units: Sequence[int] = (),
                       count: int = 6) -> Path:
    """Draw the strongest activations of units, sent back to the pixels, beside what they saw.

    Args:
      layer: by default the last stage of at least 4x4 pixels.
      units: channels of the layer; by default the `count` that respond most.
    """
    arguments, layer = (network.run.module, network.run.variables), layer or network.last_stage()
    pixels, images, _ = network.spread(POOL)
    maps = jax.jit(features.feature_maps, static_argnums=(0, 3))
    values, places = (np.concatenate(part) for part in zip(
        *(deconvolution.strongest(maps(*arguments, images[i:i + 128], layer)) for i in range(0, len(images), 128)),
        strict=True))
    best = np.argsort(-values, 0, kind="stable")[:STRONGEST]  # [9, channels]
    units = units or [*np.argsort(-np.take_along_axis(values, best, 0).mean(0), kind="stable")[:count]]
    missing = [unit for unit in units if not 0 <= unit < values.shape[1]]
    if missing:
        raise UserError(f"there is no unit {missing[0]}: {layer} has the units 0 to {values.shape[1] - 1}")
    project, shown = jax.jit(deconvolution.project, static_argnums=(0, 3)), []
    field = deconvolution.receptive_field(*arguments, network.blank, layer)
    for unit in units:
        rows = best[:, unit]
        seen = images[rows]
        one = deconvolution.keep_one(maps(*arguments, seen, layer), jnp.full(len(rows), unit),
                                     jnp.asarray(places[rows, unit]))
        back = np.asarray(project(*arguments, seen, layer, one))
        boxes = [field(place) for place in places[rows, unit]]
        shown.append({"title": f"unit {unit}"} | {
            name: np.stack([deconvolution.cut(image, box, outside) for image, box in zip(values, boxes, strict=True)])
            for name, values, outside in (("projections", back, 0.0), ("patches", pixels[rows], 0.5))})
    return pictures.projections(shown, f"{network.name}, {layer}: the {STRONGEST} strongest activations of a unit sent "
                                "back to the pixels, and what they saw", out)


def draw_saliency(network: TrainedNetwork, out: Path, indices: Sequence[int] = (), count: int = 6) -> Path:
    """Draw how much each pixel moves the logit of the true class."""
    pixels, images, labels = network.choose(indices, count)
    maps = jax.jit(features.saliency, static_argnums=0)(network.run.module, network.run.variables, images, labels)
    return pictures.beside(pixels, network.describe(images, labels)[0], np.asarray(maps), [""] * len(labels),
                           f"{network.name}: the pixels that move the class's logit", out)


def draw_grad_cam(network: TrainedNetwork, out: Path, indices: Sequence[int] = (), count: int = 6,
                  layer: str | None = None) -> Path:
    """Draw the evidence for the true class in a layer, by default the last stage of at least 4x4 pixels."""
    layer = layer or network.last_stage()
    pixels, images, labels = network.choose(indices, count)
    maps = jax.jit(features.grad_cam, static_argnums=(0, 4))(network.run.module, network.run.variables, images, labels,
                                                             layer)
    return pictures.beside(pixels, network.describe(images, labels)[0], np.asarray(maps), [""] * len(labels),
                           f"{network.name}: where {layer} speaks for the class", out, over=0.6, smooth=True)


def draw_occlusion(network: TrainedNetwork, out: Path, indices: Sequence[int] = (), count: int = 6) -> Path:
    """Draw the probability of the true class while a grey square covers each place."""
    pixels, images, labels = network.choose(indices, count)
    size, stride = features.window_of(min(network.data.spec.image_shape[:2]))
    maps = features.occlusion(network.run.module, network.run.variables, images, labels, size=size, stride=stride)
    captions, chances = network.describe(images, labels)
    return pictures.beside(pixels, captions, np.asarray(maps), [f"uncovered {chance:.2f}" for chance in chances],
                           f"{network.name}: the class's probability with a grey square of {size}x{size} pixels here",
                           out, bar="probability")


def draw_surface(network: TrainedNetwork, out: Path, other: str | Path | None = None) -> Path:
    """Draw the loss along random directions, and on the way from another run's result or from the initial weights."""
    variables = network.run.variables
    _, images, labels = network.spread(SURFACE_IMAGES)
    along = partial(surface.along, network.run.module, variables, images=images, labels=labels)
    steps = np.linspace(-1, 1, POINTS)
    draw = jax.jit(surface.filter_normalized)
    lines = [(f"direction {i}", *along({"params": draw(jax.random.key(i), variables["params"])}, steps))
             for i in range(1, DIRECTIONS + 1)]
    panels = [{"title": "random directions, filter-normalised", "xlabel": "step; 0: the result",
               "steps": steps, "result": 0, "lines": lines}]
    if other:
        start, label = load.load_run(other).variables, "the other run"
    else:
        key, _ = jax.random.split(jax.random.key(network.run.settings.seed))  # as training.program.Program does
        start, label = dict(network.run.module.init(key, network.blank, train=False)), "the initial weights"
    if jax.tree.map(np.shape, start) != jax.tree.map(np.shape, variables):
        raise UserError(f"{other} holds another network than {network.directory}")
    steps = np.linspace(-1, 0.25, POINTS)
    panels.append({"title": f"from {label} to the result", "xlabel": f"step; -1: {label}, 0: the result",
                   "steps": steps, "result": 0,
                   "lines": [("the line", *along(surface.difference(variables, start), steps))]})
    return pictures.surface(panels, f"{network.name}: loss and accuracy on {len(labels):,} images of {network.split}",
                            out)


def draw_batch_norm(directory: str | Path, out: Path) -> Path:
    """Draw how the running statistics of batch normalisation moved while a run trained."""
    records = log.read_norms(Path(directory))
    if not records or not records[0]["mean"]:
        raise UserError(f"{directory} has no record of batch normalisation: train with --config.log_norms=true, and a "
                        "network with batch normalisation")
    name = workdir.read_run(Path(directory))[0]["model"]["name"]
    return pictures.norms(records, log.NORM_PERCENTILES, f"{name}'s batch normalisation while it trained", out)


def draw_augmentation(settings: Settings | str | Path, out: Path, indices: Sequence[int] = (), count: int = 6,
                      source: str = "") -> Path:
    """Draw training images beside eight augmented versions of each.

    Args:
      settings: of a config, or the workdir of a run.
      source: another data source than that of the settings; empty: their own.
    """
    if not isinstance(settings, Settings):
        settings = from_json(workdir.read_run(Path(settings))[0])
    data = sources.load(replace(settings.data, source=source or settings.data.source))
    numbers = indices or np.linspace(0, data.spec.sizes["train"] - 1, count).astype(int)
    images, labels = load.examples(data, "train", np.asarray(numbers))
    draws = [augment.augment(jax.random.key(i), jnp.asarray(images), settings.augment) for i in range(8)]
    return pictures.augmented(images / 255.0, [data.spec.class_names[label] for label in labels],
                              np.clip(np.stack(draws) / 255.0, 0, 1), f"{settings.model['name']}'s training images",
                              out)
