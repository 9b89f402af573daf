"""Pictures of a trained network: each function draws one for a run's result and returns the path of its PNG file.

Where they take `images`, these are numbers of images in the split; without any, they show `count` images, one of each
class in turn. A `layer` is by default the last stage of at least 4x4 pixels.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.data import augment, sources
from modern_cnn.data.sources import Dataset
from modern_cnn.errors import UserError
from modern_cnn.inspection import deconvolution, features, pictures, summary
from modern_cnn.inspection.traced import Array
from modern_cnn.runs import load, log, workdir
from modern_cnn.runs.mirror import local
from modern_cnn.settings import Settings, from_json

POOL = 2000  # images among which the strongest activations are looked for
STRONGEST = 9  # activations of a unit that are shown
SURFACE_IMAGES, DIRECTIONS = 1024, 3
RANDOM_STEPS, LINE_STEPS = np.linspace(-1, 1, 25), np.linspace(-1, 0.25, 26)  # 0, the result, is one of each
Examples = tuple[np.ndarray, jax.Array, np.ndarray]  # pixels in [0, 1], normalised images, labels


@dataclass(frozen=True)
class TrainedNetwork:
    """The result of a run, and the split of its data that images are taken from."""
    directory: Path
    split: str = "test"  # train, validation or test
    source: str = ""  # another data source than the run's own, with the same classes and shapes; empty: the run's own

    @cached_property
    def run(self) -> load.TrainedRun:
        """The run's network."""
        return load.load_run(self.workdir)

    @cached_property
    def data(self) -> Dataset:
        """The run's data set, normalised as in training."""
        return load.load_data(self.workdir, self.split, {"source": self.source} if self.source else None)

    @cached_property
    def workdir(self) -> Path:
        """The run's directory; of a run in a bucket, a copy."""
        return local(self.directory)

    @property
    def name(self) -> str:
        return self.run.settings.model["name"]

    @property
    def arguments(self) -> tuple[nn.Module, dict[str, Any]]:
        """The module and its variables, which the functions of `features` begin with."""
        return self.run.module, self.run.variables

    @property
    def blank(self) -> np.ndarray:
        """One image of zeros, float32 [1, H, W, C]."""
        return np.zeros((1, *self.run.spec.image_shape), np.float32)

    def examples(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the split's images with these numbers."""
        images, labels = load.examples(self.data, self.split, np.asarray(indices))
        return images / 255.0, augment.normalize(images, self.data.spec.mean, self.data.spec.std), labels

    def spread(self, count: int) -> Examples:
        """Return `count` images, evenly over the split; all of them where it has fewer."""
        return self.examples(np.unique(np.linspace(0, self.data.spec.sizes[self.split] - 1, count).round().astype(int)))

    def choose(self, indices: Sequence[int], count: int = 6) -> Examples:
        """Return the images with these numbers; without any, one image of each class in turn, `count` in all."""
        if indices:
            return self.examples(indices)
        pixels, images, labels = self.spread(40 * count)
        nth = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # of its class
        order = np.lexsort((labels, nth))[:count]
        return pixels[order], images[order], labels[order]

    def stages(self) -> list[str]:
        """Return the names of the stages of at least 4x4 pixels."""
        return features.stages(*self.arguments, self.blank)

    def describe(self, images: Array, labels: Array) -> tuple[list[str], np.ndarray]:
        """Return (captions, probabilities of the labels). A caption is 'cat', or if wrong 'cat (dog 0.83)'."""
        chances = np.asarray(jax.nn.softmax(features.class_logits(*self.arguments, images)))
        names = self.data.spec.class_names
        return [names[label] if row.argmax() == label else f"{names[label]}\n({names[row.argmax()]} {row.max():.2f})"
                for row, label in zip(chances, labels, strict=True)], chances[range(len(labels)), labels]


def draw_filters(network: TrainedNetwork, out: Path) -> Path:
    """Draw the kernels of the first convolution."""
    name, kernel = features.first_filters(*network.arguments, network.blank)
    kh, kw, channels, count = kernel.shape
    return pictures.filters(np.asarray(kernel), f"{network.name}, {name}: {count} filters of {kh}x{kw}x{channels}", out)


def draw_features(network: TrainedNetwork, out: Path, images: Sequence[int] = (), layer: str | None = None) -> Path:
    """Draw the feature maps of the first of the images, at a layer or at every stage of at least 4x4 pixels."""
    pixels, normalized, labels = network.choose(images)
    maps = {name: np.asarray(features.feature_maps(*network.arguments, normalized[:1], name)[0])
            for name in ([layer] if layer else network.stages())}
    for name, values in maps.items():
        if values.ndim != 3:
            raise UserError(f"the layer {name} has no height and width to show: choose another layer")
    answer = network.data.spec.class_names[labels[0]]
    return pictures.feature_maps(pixels[0], maps, f"{network.name} looks at: {answer}", out)


def draw_deconv(network: TrainedNetwork, out: Path, layer: str | None = None, units: Sequence[int] = (),
                count: int = 6) -> Path:
    """Draw the strongest activations of `units`, by default the `count` that respond most, sent back to the pixels."""
    arguments, layer = network.arguments, layer or network.stages()[-1]
    pixels, images, _ = network.spread(POOL)
    maps = jax.jit(features.feature_maps, static_argnums=(0, 3))
    found = [deconvolution.strongest(maps(*arguments, images[i:i + 128], layer)) for i in range(0, len(images), 128)]
    values, places = map(np.concatenate, zip(*found, strict=True))
    best = np.argsort(-values, 0, kind="stable")[:STRONGEST]  # [9, channels]
    units = units or [*np.argsort(-np.take_along_axis(values, best, 0).mean(0), kind="stable")[:count]]
    project, shown = jax.jit(deconvolution.project, static_argnums=(0, 3)), []
    field = deconvolution.receptive_field(*arguments, network.blank, layer)
    for unit in units:
        if not 0 <= unit < values.shape[1]:
            raise UserError(f"there is no unit {unit}: {layer} has the units 0 to {values.shape[1] - 1}")
        rows, at = best[:, unit], places[best[:, unit], unit]
        one = deconvolution.keep_one(maps(*arguments, images[rows], layer), jnp.full(len(rows), unit), jnp.asarray(at))
        back = np.asarray(project(*arguments, images[rows], layer, one))
        shown.append((f"unit {unit}", *(
            np.stack([deconvolution.cut(image, field(place), outside) for image, place in zip(each, at, strict=True)])
            for each, outside in ((back, 0.0), (pixels[rows], 0.5)))))
    return pictures.projections(shown, f"{network.name}, {layer}: the {STRONGEST} strongest activations of a unit sent "
                                "back to the pixels, and what they saw", out)


def draw_saliency(network: TrainedNetwork, out: Path, images: Sequence[int] = (), count: int = 6) -> Path:
    """Draw how much each pixel moves the logit of the true class."""
    pixels, *chosen = network.choose(images, count)
    maps = jax.jit(features.saliency, static_argnums=0)(*network.arguments, *chosen)
    return pictures.beside(pixels, network.describe(*chosen)[0], np.asarray(maps),
                           f"{network.name}: the pixels that move the class's logit", out)


def draw_gradcam(network: TrainedNetwork, out: Path, images: Sequence[int] = (), count: int = 6,
                 layer: str | None = None) -> Path:
    """Draw the evidence for the true class in a layer."""
    layer = layer or network.stages()[-1]
    pixels, *chosen = network.choose(images, count)
    maps = jax.jit(features.grad_cam, static_argnums=(0, 4))(*network.arguments, *chosen, layer)
    labels = ["" if values.any() else "no evidence" for values in np.asarray(maps)]
    return pictures.beside(pixels, network.describe(*chosen)[0], np.asarray(maps), f"{network.name}: where {layer} "
                           "speaks for the class", out, labels=labels if any(labels) else (), over=0.6, smooth=True)


def draw_occlusion(network: TrainedNetwork, out: Path, images: Sequence[int] = (), count: int = 6) -> Path:
    """Draw the probability of the true class while a square of the images' mean colour covers each place."""
    pixels, *chosen = network.choose(images, count)
    size, stride = features.window_of(min(network.data.spec.image_shape[:2]))
    maps = features.occlusion(*network.arguments, *chosen, size=size, stride=stride, fill=chosen[0].mean((0, 1, 2)))
    captions, chances = network.describe(*chosen)
    return pictures.beside(pixels, captions, np.asarray(maps),
                           f"{network.name}: the class's probability with a square of the images' mean colour, "
                           f"{size}x{size} pixels, here",
                           out, labels=[f"uncovered {chance:.2f}" for chance in chances], bar="probability")


def draw_surface(network: TrainedNetwork, out: Path, other: str | Path | None = None) -> Path:
    """Draw the loss along random directions, and on the way from another run's result or from the initial weights."""
    module, variables = network.arguments
    _, images, labels = network.spread(SURFACE_IMAGES)
    if other:
        start, label = load.load_run(other).variables, "the other run"
    else:
        start, label = load.initial_variables(network.run, network.data), "the initial weights"
    if jax.tree.map(np.shape, start) != jax.tree.map(np.shape, variables):
        raise UserError(f"{other} holds another network than {network.directory}")
    draw, panels = jax.jit(features.filter_normalized), []
    random = {f"direction {i}": {"params": draw(jax.random.key(i), variables["params"])}
              for i in range(1, DIRECTIONS + 1)}
    straight = {"the line": jax.tree.map(jnp.subtract, variables, start)}
    for title, xlabel, steps, lines in (
            ("random directions, filter-normalised", "step; 0: the result", RANDOM_STEPS, random),
            (f"from {label} to the result", f"step; -1: {label}, 0: the result", LINE_STEPS, straight)):
        losses = {name: features.loss_along(module, variables, direction, steps, images, labels)
                  for name, direction in lines.items()}
        panels.append((title, xlabel, steps, losses))
    return pictures.surface(panels, f"{network.name}: loss and accuracy on {len(labels):,} images of {network.split}",
                            out)


def draw_batch_norm(network: TrainedNetwork, out: Path) -> Path:
    """Draw how the running statistics of batch normalisation moved while a run trained."""
    records = log.read_norms(network.workdir)
    if not records or not records[0]["mean"]:
        raise UserError(f"{network.directory} has no record of batch normalisation: train with "
                        "--config.log_norms=true, and a network with batch normalisation")
    name = workdir.read_run(network.workdir)[0]["model"]["name"]
    return pictures.norms(records, log.NORM_PERCENTILES, f"{name}'s batch normalisation while it trained", out)


def draw_gradients(network: TrainedNetwork, out: Path) -> Path:
    """Draw the sizes of the gradients by layer, in the order in which the layers run, at some steps of a run."""
    records = [record for record in log.read_norms(network.workdir) if record.get("gradient")]
    if not records:
        raise UserError(f"{network.directory} has no record of gradients: train with --config.log_norms=true; runs of "
                        "earlier versions have none")
    module, spec = network.run.module, network.run.spec
    ran = {row.name: i for i, row in enumerate(summary.summarize(module, spec.image_shape).layers)}
    layers = sorted(records[0]["gradient"], key=lambda layer: ran.get(layer, len(ran)))
    return pictures.gradients(records, layers, f"{network.name}: the gradients of its kernels by layer", out)


def _augmented(key: jax.Array, pixels: np.ndarray, labels: np.ndarray, settings: Settings) -> jax.Array:
    images = augment.augment(key, jnp.asarray(pixels), settings.augment)
    return augment.mix(key, images, jnp.asarray(labels), settings.augment)["image"]


def draw_augment(settings: Settings | Path, out: Path, images: Sequence[int] = (), count: int = 6,
                 source: str = "") -> Path:
    """Draw training images of a config or a run beside eight augmented versions of each; `source`: of other data.

    Mixup and CutMix mix each with the one above it.
    """
    channels = 0
    if isinstance(settings, Path):
        config, run = workdir.read_run(local(settings))
        settings, channels = from_json(config), run["data"]["image_shape"][2]
    data = sources.load(replace(settings.data, source=source or settings.data.source), channels)
    numbers = images or np.linspace(0, data.spec.sizes["train"] - 1, count).astype(int)
    pixels, labels = load.examples(data, "train", np.asarray(numbers))
    draws = np.stack([_augmented(jax.random.key(i), pixels, labels, settings) for i in range(8)])
    names, title = [data.spec.class_names[label] for label in labels], f"{settings.model['name']}'s training images"
    return pictures.augmented(pixels / 255.0, names, np.clip(draws / 255.0, 0, 1), title, out)
