"""Receptive fields against a search: which pixels, when switched on, switch an output on?"""
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from modern_cnn import functional as F
from modern_cnn.inspection.summary import summarize
from modern_cnn.layers import BatchNorm, Conv, DepthwiseConv, GroupNorm, LocallyConnected, SeparableConv
from tests.functional.oracle import FAST_COMPILE

SIZE = 60


class Net(nn.Module):
    """A function of the images, then a pooling, so that the function's result is the input of a layer."""
    body: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x, *, train=False):
        return F.max_pool(self.body(x), 2, 1)


def matrix_convolution(x):
    """Return a 3x3 convolution with padding 1, computed as patches times a matrix."""
    patches = lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return nn.Dense(4, use_bias=False, name="dense")(patches)


def space_to_depth(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def inception(x):
    return jnp.concatenate([Conv(2, 1, name="one")(x), Conv(2, 5, padding=2, name="five")(x),
                            Conv(2, 1, name="pooled")(F.max_pool(x, 3, 1, padding=1))], axis=-1)


def residual(x):
    """Return a residual block with half the pixels and twice the channels; its shortcut is the paper's option A."""
    y = Conv(4, 3, strides=2, padding=1, name="conv1")(x)
    y = BatchNorm(train=False, name="norm")(Conv(4, 3, padding=1, name="conv2")(y))
    return y + jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))


def towers(x):
    """Return two halves of the channels, convolved differently."""
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([Conv(2, 3, padding=1, name="left")(left), Conv(2, 7, padding=3, name="right")(right)], -1)


def scanned(x):
    loop = nn.scan(lambda conv, x, _: (conv(x), None), length=4, variable_axes={"params": 0},
                   split_rngs={"params": True})
    return loop(Conv(2, 3, padding=1, name="stack"), x, None)[0]


# body -> receptive field and stride (height, width), counted by hand: size + (window - 1) * stride for each layer
STACKS = {
    "nothing": (lambda x: x, (1, 1), (1, 1)),
    "strides and dilation": (lambda x: Conv(2, 5, dilation=2, padding=4, name="b")(
        F.max_pool(Conv(2, 3, strides=2, padding=1, name="a")(x), 3, 2, padding=1)),
        (3 + 2 * 2 + 8 * 4,) * 2, (4, 4)),
    "same": (lambda x: Conv(2, 4, strides=2, padding="SAME", name="a")(Conv(2, 2, padding="SAME", name="b")(x)),
             (2 + 3,) * 2, (2, 2)),
    "oblong": (lambda x: F.avg_pool(Conv(2, (3, 5), strides=(1, 2), name="a")(x), (2, 1)), (3 + 1, 5), (2, 2)),
    "inception": (inception, (5, 5), (1, 1)),
    "residual": (residual, (3 + 2 * 2,) * 2, (2, 2)),
    "towers": (towers, (7, 7), (1, 1)),
    "scan": (scanned, (9, 9), (1, 1)),
    "remat": (lambda x: nn.remat(Conv)(2, 3, name="a")(x), (3, 3), (1, 1)),
    "jit": (lambda x: jax.jit(lambda x: F.avg_pool(x, 3, 2))(Conv(2, 3, name="a")(x)), (5, 5), (2, 2)),
    "grouped": (lambda x: Conv(4, 3, groups=2, name="a")(x), (3, 3), (1, 1)),
    "depthwise": (lambda x: SeparableConv(3, 3, name="b")(DepthwiseConv(3, strides=2, name="a")(x)), (7, 7), (2, 2)),
    "unshared": (lambda x: LocallyConnected(2, (3, 2), strides=(2, 3), padding=1, name="a")(x), (3, 2), (2, 3)),
    "patches": (matrix_convolution, (3, 3), (1, 1)),
    "space to depth": (lambda x: Conv(2, 2, name="a")(space_to_depth(x)), (4, 4), (2, 2)),
    "adaptive pool": (lambda x: F.adaptive_avg_pool(x, (SIZE // 4, SIZE // 3)), (4, 3), (4, 3)),
    "padded by hand": (lambda x: Conv(2, 3, strides=2, name="a")(jnp.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)))),
                       (3, 3), (2, 2)),
    "shifted": (lambda x: x[:, :-3, 1:] + x[:, 3:, :-1], (4, 2), (1, 1)),
    "side by side": (lambda x: Conv(2, 3, name="a")(jnp.concatenate([jnp.zeros_like(x[:, :5]), x], axis=1)),
                     (3, 3), (1, 1)),
    "channels first": (lambda x: lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), jnp.ones((2, 2, 3, 3)), (2, 2), "VALID").transpose(0, 2, 3, 1), (3, 3), (2, 2)),
}


def seen(module, channels):
    """Return (extents, strides) of the pixels that switch the middle output on, and the distance to its neighbour's."""
    def bright(path, leaf):
        return np.full(leaf.shape, path[-1].key not in ("bias", "mean"), np.float32)

    blank = np.zeros((SIZE, SIZE, SIZE, channels), np.float32)
    variables = jax.tree_util.tree_map_with_path(bright, jax.eval_shape(module.init, jax.random.key(0), blank[:1]))
    apply, extents, strides = jax.jit(module.apply, compiler_options=FAST_COMPILE), [], []
    for axis in (1, 2):
        images = np.moveaxis(blank.copy(), axis, 1)
        images[np.arange(SIZE), np.arange(SIZE)] = 1  # image i has row (column) i lit
        lit = np.moveaxis(np.asarray(apply(variables, np.moveaxis(images, 1, axis))), axis, 1).any(axis=(2, 3))
        middle = lit.shape[1] // 2
        mine, next_ = (np.flatnonzero(lit[:, i]) for i in (middle, middle + 1))
        extents.append(mine[-1] - mine[0] + 1)
        strides.append(next_[0] - mine[0])
    return tuple(extents), tuple(strides)


@pytest.mark.parametrize(("body", "field", "stride"), STACKS.values(), ids=STACKS)
def test_the_receptive_field_is_what_lights_up(body, field, stride):
    module = Net(body)
    pool = summarize(module, (SIZE, SIZE, 2)).layers[-1]
    assert pool.name.startswith("max_pool")
    assert pool.stride == stride
    assert pool.receptive_field == tuple(f + s for f, s in zip(field, stride, strict=True))  # 2x2, so one stride more
    assert seen(module, 2) == (pool.receptive_field, stride)


WHOLE = {
    "flatten": lambda x: nn.Dense(3)(x.reshape(len(x), -1)),
    "global pooling": F.global_avg_pool,
    "mean": lambda x: x.mean((1, 2)),
    "max": lambda x: x.max((1, 2), keepdims=True),
    "group norm": lambda x: GroupNorm(2)(x),
    "excited channels": lambda x: x * nn.Dense(2)(x.mean((1, 2), keepdims=True)),
    "windows that drift apart": lambda x: x[:, ::2, ::2] + x[:, :x.shape[1] // 2, :x.shape[2] // 2],
    "adaptive pool by matrix": lambda x: F.adaptive_avg_pool(x, 5),
}


@pytest.mark.parametrize("body", WHOLE.values(), ids=WHOLE)
def test_what_sees_the_whole_image_says_so(body):
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = body(Conv(2, 3, name="conv")(x))
            return nn.Dense(4, name="last")(x)

    layers = summarize(Head(), (16, 16, 3)).layers
    assert layers[0].receptive_field == (3, 3)
    assert (layers[-1].name, layers[-1].receptive_field) == ("last", ("all", "all"))
