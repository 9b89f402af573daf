"""Filters, feature maps and class evidence of a trained network: arrays in, arrays out.

Everywhere: `variables` as `module.apply` takes them, `images` float [N, H, W, C] normalised as in training, `labels`
int [N] the classes that are asked about, and the network in evaluation mode.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn, Var

from modern_cnn.errors import UserError, lookup
from modern_cnn.inspection.traced import Array, Place, Replay


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
    """Return a function: (variables, images [N, H, W, C]) -> (value of the layer [N, ...], logits [N, K]).

    Raises:
      UserError: when it is called, for a layer that the network does not have.
    """
    def function(variables, images):
        found, logits = _captured(module, variables, images)
        return lookup(found, layer, "layer"), logits

    return function


def first_filters(module: nn.Module, variables: Any, images: Array) -> tuple[str, jax.Array]:
    """Return (name, kernel [kh, kw, C, O]) of the first convolution.

    Raises:
      UserError: the network has none.
    """
    found = []

    def note(following, args, kwargs, context):
        kernel = context.module.variables.get("params", {}).get("kernel")
        if context.method_name == "__call__" and getattr(kernel, "ndim", 0) == 4:
            found.append(("/".join(context.module.path), kernel))
        return following(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: plain(module).apply(variables, images[:1], train=False))
    if not found:
        raise UserError(f"{type(module).__name__} has no convolution, so it has no filters to show")
    return found[0]


def feature_maps(module: nn.Module, variables: Any, images: Array, layer: str) -> jax.Array:
    """Return the value of a stage or module, [N, H', W', C'] or [N, C']. Raises UserError for an unknown name."""
    return with_layer(module, layer)(variables, images)[0]


def stages(module: nn.Module, variables: Any, images: Array, side: int = 4) -> list[str]:
    """Return the names of the stages whose maps [N, H', W', C'] have at least `side` pixels a side, in order.

    Raises:
      UserError: there is no such stage.
    """
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


class _Shifted(Replay):
    """A replay that adds a change to one value. The gradient of the change is the gradient of the value."""

    def __init__(self, var: Var, change: jax.Array):
        self.var, self.change = var, change

    def visit(self, eqn: JaxprEqn, inputs: list[jax.Array], place: Place) -> Sequence[jax.Array]:
        outputs = super().visit(eqn, inputs, place)
        return [value + self.change if var is self.var else value
                for var, value in zip(eqn.outvars, outputs, strict=True)]


def grad_cam(module: nn.Module, variables: Any, images: Array, labels: Array, layer: str) -> jax.Array:
    """Return the evidence for a class in a layer: [N, H', W'] of the layer's size, at least 0.

    It is the sum of the layer's maps, each weighted by the mean over pixels of the gradient of the class's logit, then
    rectified (Selvaraju et al. 2016, "Grad-CAM", equations 1 and 2).

    Raises:
      UserError: no such layer, one without height and width, or a network that loops.
    """
    traced = jax.make_jaxpr(with_layer(module, layer))(variables, images)
    value, leaves = traced.jaxpr.outvars[0], [*jax.tree.leaves(variables), images]
    shape, dtype = traced.out_avals[0].shape, traced.out_avals[0].dtype
    if len(shape) != 4:
        raise UserError(f"{layer} is {list(shape[1:])}, not a map: Grad-CAM needs height and width")

    def score(change):
        maps, logits = _Shifted(value, change).run(traced, leaves)
        return _scores(logits, labels).sum(), maps

    gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(shape, dtype))
    return nn.relu((maps * gradient.mean((1, 2), keepdims=True)).sum(-1))


def occlusion(module: nn.Module, variables: Any, images: Array, labels: Array, *, size: int, stride: int = 1,
              fill: float = 0.0) -> jax.Array:
    """Return the probability of a class while a square covers a part of the image.

    Zeiler and Fergus 2013, section 4.2.

    Args:
      size, stride: side of the square, and how far it moves, in pixels.
      fill: value of the square; 0 is the mean of images that are normalised by it.
    Returns:
      [N, ceil(H / stride), ceil(W / stride)]. For value (i, j) the square begins at pixel i * stride +
      (stride - size) // 2 of the height, and likewise of the width, so that the map fits over the image.
    """
    height, width = images.shape[1:3]
    starts = np.stack(np.meshgrid(*(np.arange(0, n, stride) + (stride - size) // 2 for n in (height, width)),
                                  indexing="ij"), -1)

    @jax.jit
    def covered(start):
        rows, columns = (jnp.arange(n) - first for n, first in zip((height, width), start, strict=True))
        inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
        pictures = jnp.where(inside[:, :, None], fill, images)
        return _scores(nn.softmax(class_logits(module, variables, pictures)), labels)

    found = jnp.stack([covered(start) for start in starts.reshape(-1, 2)], 1)
    return found.reshape(len(images), *starts.shape[:2])


def window_of(image_size: int) -> tuple[int, int]:
    """Return (size, stride) of a square for `occlusion`: a quarter of the image, in about 16 steps."""
    return math.ceil(image_size / 4), math.ceil(image_size / 16)


def _scores(values: jax.Array, labels: Array) -> jax.Array:
    """Return the value of its label from each row of [N, K]."""
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
