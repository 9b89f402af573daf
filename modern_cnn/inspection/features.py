"""Filters, feature maps, class evidence and loss surface of a trained network: arrays in, arrays out.

Everywhere: `variables` as `module.apply` takes them, `images` float [N, H, W, C] normalised as in training, `labels`
int [N] the classes that are asked about, and the network in evaluation mode.
"""
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn, Var

from modern_cnn.errors import UserError, lookup
from modern_cnn.inspection.summary import summarize
from modern_cnn.inspection.traced import Array, Place, Replay, trace


def class_logits(module: nn.Module, variables: Any, images: Array) -> jax.Array:
    """Return the logits [N, K] of a network in evaluation mode."""
    logits: Any = module.apply(variables, images, train=False)
    return logits


def plain(module: nn.Module) -> nn.Module:
    """Return the same network without rematerialisation, which only training needs and which hides layers' values."""
    return module.clone(remat=False) if getattr(module, "remat", False) else module


def _captured(module: nn.Module, variables: Any, images: Array) -> tuple[dict[str, Any], jax.Array]:
    """Return ({name: value}, logits): first the sown stages, then what every module returned at its last call."""
    logits, new = plain(module).apply(variables, images, train=False, capture_intermediates=True,
                                      mutable=["intermediates"])
    sown: dict[tuple[str, ...], Any] = flatten_dict(new["intermediates"])
    found = {path: values[-1] for path, values in sown.items() if path != ("__call__",)}
    stages = {"/".join(path): value for path, value in found.items() if path[-1] != "__call__"}
    inside = {"/".join(path[:-1]): value for path, value in found.items() if path[-1] == "__call__"}
    return {name: value for name, value in (stages | inside).items() if hasattr(value, "shape")}, logits


def layers(module: nn.Module, variables: Any, images: Array) -> dict[str, tuple[int, ...]]:
    """Return {name: shape [N, ...]} of all values that have a name: 'stage1', ..., then modules, 'block1/conv1'."""
    found = jax.eval_shape(lambda v, x: _captured(module, v, x)[0], variables, images)
    return {name: found[name].shape for name in sorted(found, key=lambda name: (not name.startswith("stage"), name))}


def with_layer(module: nn.Module, layer: str) -> Callable[[Any, Array], tuple[jax.Array, jax.Array]]:
    """Return a function: (variables, images) -> (the layer's value, logits [N, K]). UserError: no such layer."""
    def function(variables, images):
        found, logits = _captured(module, variables, images)
        return lookup(found, layer, "layer"), logits

    return function


def first_filters(module: nn.Module, variables: Any, images: Array) -> tuple[str, jax.Array]:
    """Return (name, kernel [kh, kw, C, O]) of the first convolution. Raise UserError if the network has none."""
    kernels: dict[str, Any] = {path: leaf for collection in variables.values()  # that of airbench94 is not a parameter
                               for path, leaf in flatten_dict(collection, sep="/").items()}
    for layer in summarize(module, images.shape[1:]).layers:
        if layer.kind == "conv":
            return layer.name, kernels[f"{layer.name}/kernel"]
    raise UserError(f"{type(module).__name__} has no convolution, so it has no filters to show")


def feature_maps(module: nn.Module, variables: Any, images: Array, layer: str) -> jax.Array:
    """Return the value of a stage or module, [N, H', W', C'] or [N, C']. Raise UserError for an unknown name."""
    return with_layer(module, layer)(variables, images)[0]


def stages(module: nn.Module, variables: Any, images: Array, side: int = 4) -> list[str]:
    """Return the names of the stages of at least `side` x `side` pixels, in order. Raise UserError if there is none."""
    known = layers(module, variables, images)
    found = [name for name, shape in known.items()
             if name.startswith("stage") and len(shape) == 4 and min(shape[1:3]) >= side]
    if not found:
        raise UserError(f"with images of this size the network has no stage of {side}x{side} pixels or more; choose "
                        f"another layer: {', '.join(known)}")
    return found


def saliency(module: nn.Module, variables: Any, images: Array, labels: Array) -> jax.Array:
    """Return the gradient of a class's logit with respect to the pixels: [N, H, W], the largest size over channels.

    Simonyan, Vedaldi and Zisserman 2013, "Deep inside convolutional networks", section 3.
    """
    gradient = jax.grad(lambda x: _scores(class_logits(module, variables, x), labels).sum())(images)
    return jnp.abs(gradient).max(-1)


@dataclass
class _Shifted(Replay):
    """A replay that adds a change to one value. The gradient of the change is the gradient of the value."""

    var: Var
    change: jax.Array

    def visit(self, eqn: JaxprEqn, inputs: list[jax.Array], place: Place) -> Sequence[jax.Array]:
        outputs = super().visit(eqn, inputs, place)
        return [value + self.change if var is self.var else value
                for var, value in zip(eqn.outvars, outputs, strict=True)]


def grad_cam(module: nn.Module, variables: Any, images: Array, labels: Array, layer: str) -> jax.Array:
    """Return the evidence for a class in a layer: [N, H', W'] of the layer's size, at least 0.

    It is the sum of the layer's maps, each weighted by the mean over pixels of the gradient of the class's logit, then
    rectified (Selvaraju et al. 2016, "Grad-CAM", equations 1 and 2). Raise UserError for no layer, no map or a loop.
    """
    traced = trace(with_layer(module, layer), variables, images)
    leaves, value = [*jax.tree.leaves(variables), images], traced.out_avals[0]
    if value.ndim != 4:
        raise UserError(f"{layer} is {list(value.shape[1:])}, not a map: Grad-CAM needs height and width")

    def score(change):
        maps, logits = _Shifted(traced.jaxpr.outvars[0], change).run(traced, leaves)
        return _scores(logits, labels).sum(), maps

    gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(value.shape, value.dtype))
    return nn.relu((maps * gradient.mean((1, 2), keepdims=True)).sum(-1))


def occlusion(module: nn.Module, variables: Any, images: Array, labels: Array, *, size: int, stride: int = 1,
              fill: float | Array = 0.0) -> jax.Array:
    """Return the probability of a class while a square covers a part of the image: [N, H / stride, W / stride].

    Zeiler and Fergus 2013, section 4.2. The sides of the map are rounded up. The square has `size` pixels a side, with
    the value `fill`, a number or one for each channel [C]; 0 is the mean of images that are normalised by it. For value
    (i, j) it begins at pixel i * stride + (stride - size) // 2 of the height, and likewise of the width, so that the
    map fits over the image.
    """
    sides = images.shape[1:3]
    starts = [np.arange(0, n, stride) + (stride - size) // 2 for n in sides]

    @jax.jit
    def covered(start):
        rows, columns = (jnp.arange(n) - first for n, first in zip(sides, start, strict=True))
        inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
        pictures = jnp.where(inside[:, :, None], fill, images)
        return _scores(nn.softmax(class_logits(module, variables, pictures)), labels)

    found = jnp.stack([covered(np.array(start)) for start in itertools.product(*starts)], 1)
    return found.reshape(len(images), *map(len, starts))


def window_of(image_size: int) -> tuple[int, int]:
    """Return (size, stride) of a square for `occlusion`: a quarter of the image, in about 16 steps."""
    return math.ceil(image_size / 4), math.ceil(image_size / 16)


def filter_normalized(key: jax.Array, params: Any) -> Any:
    """Return a random direction shaped like `params`, each of its filters as long as the network's own.

    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4. Batch normalisation makes the scale of
    the weights before it arbitrary, so directions of another length would make sharp and flat look alike. A filter is
    kernel[..., o]. The direction is 0 for biases and the scales of normalisation, as in the paper's code.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def draw(key, leaf):
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        drawn, axes = jax.random.normal(key, leaf.shape, leaf.dtype), tuple(range(leaf.ndim - 1))
        lengths = [jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (leaf, drawn)]
        return drawn * lengths[0] / lengths[1]

    return jax.tree.unflatten(structure, [draw(*each) for each in zip(keys, leaves, strict=True)])


def loss_along(module: nn.Module, variables: Any, direction: Any, steps: Iterable[float], images: Array,
               labels: Array, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Return (loss, accuracy), each [number of steps], of `variables + step * direction` in evaluation mode.

    The direction is like `variables`, or some of its collections: {'params': filter_normalized(key, params)}. Running
    variances stay at least 0, beyond the end of a line too. The loss is the mean cross-entropy over all images, float
    [N, H, W, C], and their labels, int [N], in nats.
    """
    def move(step, path, value, change):
        return jnp.maximum(value + step * change, 0 if path[-1].key == "var" else -jnp.inf)

    @jax.jit
    def sums(step, images, labels):
        moved = {name: jax.tree_util.tree_map_with_path(partial(move, step), value, direction[name])
                 if name in direction else value for name, value in variables.items()}
        logits = class_logits(module, moved, images)
        return -_scores(nn.log_softmax(logits), labels).sum(), (logits.argmax(-1) == labels).sum()

    parts = [(images[i:i + batch_size], labels[i:i + batch_size]) for i in range(0, len(images), batch_size)]
    totals = np.array([[sums(step, *part) for part in parts] for step in steps]).sum(1) / len(images)
    return totals[:, 0], totals[:, 1]


def _scores(values: jax.Array, labels: Array) -> jax.Array:
    """Return the value of its label from each row of [N, K]."""
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
