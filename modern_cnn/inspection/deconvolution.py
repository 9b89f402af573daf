"""The deconvolutional network of Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks".

It sends the values of a feature map back to the pixels (section 2.1). A pooling returns each value to its switch, the
place of the maximum; a convolution becomes its transpose; biases have no part. The network's own gradient does all of
this, and normalisation by running statistics is part of the filter before it. But a ReLU rectifies on the way back too.
So the way back is the network's vector-Jacobian product with another rule for what rectifies.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from modern_cnn.inspection.features import with_layer
from modern_cnn.inspection.receptive_field import views
from modern_cnn.inspection.traced import Array, Place, Replay, is_relu, trace

Box = tuple[int, int, int, int]  # top, bottom, left, right: rows top to bottom - 1; may lie beyond the image


def _rectifying(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return a function with positive outputs with the deconvolutional network's way back, a ReLU."""
    passed = jax.custom_vjp(function)
    passed.defvjp(lambda x: (function(x), None), lambda _, signal: (nn.relu(signal),))
    return passed


_relu, _logistic = _rectifying(nn.relu), _rectifying(lax.logistic)


class _Deconvolution(Replay):
    """A replay with another way back for ReLU, sigmoid (positive too) and local response normalisation (left out)."""

    def visit(self, eqn: JaxprEqn, inputs: list[jax.Array], place: Place) -> Sequence[jax.Array]:
        if eqn.primitive.name == "logistic":
            return [_logistic(*inputs)]
        if is_relu(eqn):
            return [_relu(*inputs)]
        if "local_response_norm" in place.names and eqn.primitive.name == "div":
            return [inputs[0] + lax.stop_gradient(inputs[0] / inputs[1] - inputs[0])]
        return super().visit(eqn, inputs, place)


def project(module: nn.Module, variables: Any, images: Array, layer: str, signal: Array) -> jax.Array:
    """Return a signal in a layer, sent back to the pixels with the switches that the images set.

    The result is [N, H, W, C], like the normalised images, and positive where the signal asks for brighter pixels. The
    signal is shaped like the layer's value; `keep_one` of that shows one unit. Raise UserError for no layer or a loop.
    """
    traced = trace(with_layer(module, layer), variables, images)
    weights = jax.tree.leaves(variables)
    _, back = jax.vjp(lambda pixels: _Deconvolution().run(traced, [*weights, pixels])[0], images)
    return back(signal)[0]


def strongest(maps: Array) -> tuple[jax.Array, jax.Array]:
    """Return (values [N, C], places int [N, C]) of the largest value of each channel of [N, H, W, C] or [N, C].

    A place is the number of a pixel in row order; among equal values the first one counts.
    """
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    return flat.max(1), flat.argmax(1)


def keep_one(maps: jax.Array, channels: Array, places: Array) -> jax.Array:
    """Return [N, ..., C] where each example keeps one value, of its channel [N] at its place [N]; the rest is 0."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    rows = jnp.arange(len(maps))
    return jnp.zeros_like(flat).at[rows, places, channels].set(flat[rows, places, channels]).reshape(maps.shape)


def receptive_field(module: nn.Module, variables: Any, images: Array, layer: str) -> Callable[[int], Box]:
    """Return a function: place -> the pixels that the layer's value there sees, at most the whole image."""
    function = with_layer(module, layer)
    sides = jax.eval_shape(function, variables, images)[0].shape[1:-1]
    seen = views(function, variables, images)

    def box(place: int) -> Box:
        found = []
        for view, length in zip(seen, images.shape[1:3], strict=True):
            whole = view.size >= length
            start = 0 if whole else view.start + int(np.dot(view.jumps[1:-1], np.unravel_index(place, sides)))
            found += [start, length if whole else start + int(view.size)]
        return tuple(found)

    return box


def cut(image: np.ndarray, box: Box, outside: float) -> np.ndarray:
    """Return the pixels of an image [H, W, C] inside a box, and `outside` where the box hangs over the border."""
    rim = max(0, *(-edge for edge in box), box[1] - image.shape[0], box[3] - image.shape[1])
    top, bottom, left, right = (edge + rim for edge in box)
    return np.pad(image, ((rim, rim), (rim, rim), (0, 0)), constant_values=outside)[top:bottom, left:right]
