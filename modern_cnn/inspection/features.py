"""What a trained network's filters, feature maps and classes look at. Arrays in, arrays out.

Everywhere: `variables` as `module.apply` takes them, `images` float [N, H, W, C] normalised as in training, `labels`
int [N] the class that is asked about, and the network in evaluation mode.
"""
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.errors import UserError
from modern_cnn.inspection.replay import layers, plain, replay, with_layer


def first_filters(module: nn.Module, variables: Any, images: jax.Array) -> tuple[str, jax.Array]:
    """(name, kernel [kh, kw, C, O]) of the convolution that comes first.

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
        raise UserError(f"{type(module).__name__} has no convolution, and so no filters to look at")
    return found[0]


def feature_maps(module: nn.Module, variables: Any, images: jax.Array, layer: str) -> jax.Array:
    """The value of a named stage or module, [N, H', W', C'] or [N, C']. Raises UserError for one there is not."""
    return with_layer(module, layer)(variables, images)[0]


def stages(module: nn.Module, variables: Any, images: jax.Array, side: int = 4) -> list[str]:
    """The names of the stages whose maps [N, H', W', C'] have at least so many pixels a side, in order.

    Raises:
      UserError: there is none.
    """
    known = layers(module, variables, images)
    found = [name for name, shape in known.items()
             if name.startswith("stage") and len(shape) == 4 and min(shape[1:3]) >= side]
    if not found:
        raise UserError(f"of these images this network has no stage of {side}x{side} pixels or more; choose another "
                        f"layer: {', '.join(known)}")
    return found


def saliency(module: nn.Module, variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How much each pixel moves the logit of a class: [N, H, W], the largest |gradient| of its channels.

    Simonyan, Vedaldi and Zisserman 2013, "Deep inside convolutional networks", section 3.
    """
    gradient = jax.grad(lambda x: _scores(module.apply(variables, x, train=False), labels).sum())(images)
    return jnp.abs(gradient).max(-1)


def grad_cam(module: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, layer: str) -> jax.Array:
    """Where a layer speaks for a class: [N, H', W'] of the layer's size, at least 0.

    The layer's maps, weighted by the mean over pixels of the gradient of the class's logit, summed and rectified
    (Selvaraju et al. 2016, "Grad-CAM", equations 1 and 2).

    Raises:
      UserError: no such layer, one that is no map, or a network that loops.
    """
    traced = jax.make_jaxpr(with_layer(module, layer))(variables, images)
    value, leaves = traced.jaxpr.outvars[0], [*jax.tree.leaves(variables), images]
    if value.aval.ndim != 4:
        raise UserError(f"{layer} is {list(value.aval.shape[1:])}, not a map: Grad-CAM needs height and width")

    def score(change):
        maps, logits = replay(traced, leaves, added={value: change})
        return _scores(logits, labels).sum(), maps

    gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(value.aval.shape, value.aval.dtype))
    return nn.relu((maps * gradient.mean((1, 2), keepdims=True)).sum(-1))


def occlusion(module: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, size: int, stride: int = 1,
              fill: float = 0.0) -> jax.Array:
    """The probability of a class while a square covers a part of the image: [N, ceil(H / stride), ceil(W / stride)].

    Zeiler and Fergus 2013, section 4.2. Value (i, j) is with the square over the pixels from i * stride +
    (stride - size) // 2 on, as far as they lie in the image, so that the map lies over the image.

    Args:
      size, stride: of the square and of its steps, in pixels.
      fill: what covers; 0 is the mean of images that are normalised by it.
    """
    height, width = images.shape[1:3]
    starts = np.stack(np.meshgrid(*(np.arange(0, n, stride) + (stride - size) // 2 for n in (height, width)),
                                  indexing="ij"), -1)

    @jax.jit
    def covered(start):
        rows, columns = (jnp.arange(n) - first for n, first in zip((height, width), start, strict=True))
        inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
        pictures = jnp.where(inside[:, :, None], fill, images)
        return _scores(nn.softmax(module.apply(variables, pictures, train=False)), labels)

    found = jnp.stack([covered(start) for start in starts.reshape(-1, 2)], 1)
    return found.reshape(len(images), *starts.shape[:2])


def window_of(image_size: int) -> tuple[int, int]:
    """(size, stride) of an occluding square that suits images of this size: a quarter of it, in about 16 steps."""
    return math.ceil(image_size / 4), math.ceil(image_size / 16)


def _scores(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Of each row of [N, K] the value of its label."""
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
