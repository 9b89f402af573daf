"""The deconvolutional network of Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks".

It sends a feature map's values back to the pixels (section 2.1): where the network pools, each value returns to its
switch, the place that the maximum came from; where it rectifies, so does the way back; where it filters, the
transposed filters do. Biases have no part in it. Two of the three are what the network's own gradient does: that of
max-pooling goes to the maximum, and that of a convolution is its transpose, normalisation by running statistics being
a part of the filter that it follows. So the way back is the network's vector-Jacobian product with another rule for
what rectifies. It needs no list of layers: branches and shortcuts add up what comes back through them.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, jaxprs_in_params

from modern_cnn.inspection import summary
from modern_cnn.inspection.replay import replay, with_layer

Box = tuple[int, int, int, int]  # top, bottom, left, right: rows top to bottom - 1; may lie beyond the image


def _rectifying(function):
    """`function`, whose outputs are never negative, with the deconvolutional network's way back."""
    passed = jax.custom_vjp(function)
    passed.defvjp(lambda x: (function(x), None), lambda _, signal: (nn.relu(signal),))
    return passed


_relu, _logistic = _rectifying(nn.relu), _rectifying(lax.logistic)


def _rule(eqn: JaxprEqn, inputs: list[jax.Array]) -> list[jax.Array] | None:
    """Another way back for ReLU, sigmoid (as it is positive too) and local response normalisation (left out)."""
    if eqn.primitive.name == "logistic":
        return [_logistic(*inputs)]
    if eqn.primitive.name == "custom_jvp_call":
        inner = [equation.params.get("name") for body in jaxprs_in_params(eqn.params) for equation in body.eqns]
        return [_relu(*inputs)] if inner == ["relu"] else None
    if "local_response_norm" in str(eqn.source_info.name_stack) and eqn.primitive.name == "div":
        return [inputs[0] + lax.stop_gradient(inputs[0] / inputs[1] - inputs[0])]
    return None


def project(module: nn.Module, variables: Any, images: jax.Array, layer: str, signal: jax.Array) -> jax.Array:
    """A signal in a layer, sent back to the pixels with the switches that the images set.

    Args:
      images: [N, H, W, C], normalised as in training.
      layer: a key of `replay.layers`.
      signal: like the layer's value for these images; `keep_one` of it shows one unit.
    Returns:
      [N, H, W, C], positive where the signal asks for brighter pixels.
    Raises:
      UserError: no such layer, or a network that loops.
    """
    traced = jax.make_jaxpr(with_layer(module, layer))(variables, images)
    weights = jax.tree.leaves(variables)
    _, back = jax.vjp(lambda pixels: replay(traced, [*weights, pixels], _rule)[0], images)
    return back(signal)[0]


def strongest(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(values [N, C], places int [N, C]) of the largest value of each channel of [N, H, W, C] or [N, C].

    A place counts pixels in row order; of equal values the first.
    """
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    return flat.max(1), flat.argmax(1)


def keep_one(maps: jax.Array, channels: jax.Array, places: jax.Array) -> jax.Array:
    """[N, ..., C] with all but one value of each example zero: that of its channel [N] at its place [N]."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    rows = jnp.arange(len(maps))
    return jnp.zeros_like(flat).at[rows, places, channels].set(flat[rows, places, channels]).reshape(maps.shape)


def receptive_field(module: nn.Module, variables: Any, images: jax.Array, layer: str) -> Callable[[int], Box]:
    """place -> the pixels that the layer's value there sees; the whole image where it sees at least as many."""
    function = with_layer(module, layer)
    sides = jax.eval_shape(function, variables, images)[0].shape[1:-1]
    views = summary.views(function, variables, images)

    def box(place: int) -> Box:
        found = []
        for view, length in zip(views, images.shape[1:3], strict=True):
            if view.size >= length:
                found += [0, length]
            else:
                start = view.start + sum(jump * int(i) for jump, i in zip(
                    view.jumps[1:-1], np.unravel_index(place, sides), strict=True))
                found += [start, start + int(view.size)]
        return tuple(found)

    return box


def cut(image: np.ndarray, box: Box, outside: float) -> np.ndarray:
    """The pixels of [H, W, C] inside a box, and `outside` where it hangs over the border."""
    top, bottom, left, right = box
    height, width = image.shape[:2]
    inside = image[max(top, 0):bottom, max(left, 0):right]
    return np.pad(inside, ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0)),
                  constant_values=outside)
