"""From uint8 pixels to what a network sees, inside the compiled step."""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.data import formats

PILLOW_BITS = 22  # after the point, in the weights of Pillow's fixed-point arithmetic


def enlarge(images: jax.Array, size: int) -> jax.Array:
    """uint8 [N, H, W, C] to [N, size, size, C], H and W at most `size`: `formats.resize`, to the bit.

    Of Pillow's bilinear filter (Resample.c) at most two pixels a side have a part in a larger image. It works in
    integers, along the width first and then the height, rounded after each.
    """
    sides = images.shape[1:3]
    for axis in (2, 1):
        length, start = formats.centred(images.shape[axis], min(sides), size)
        centre = (start + np.arange(size) + 0.5) * (images.shape[axis] / length)
        total = 1 << (PILLOW_BITS - 1)  # a half, to round
        before = np.floor(centre - 0.5).astype(np.int32)
        for pixel in (before, before + 1):
            weight = np.floor((1 - abs(pixel - centre + 0.5)) * (1 << PILLOW_BITS) + 0.5).astype(np.int32)
            neighbour = jnp.take(images, pixel, axis=axis, mode="clip")  # outside, the edge goes on
            total += neighbour * np.expand_dims(weight, (0, 3, 3 - axis))
        images = total >> PILLOW_BITS
    return images.astype(jnp.uint8)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels 0..255 [..., C] to (pixels / 255 - mean) / std in float32; mean and std are of each channel in [0, 1]."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    return images.astype(jnp.float32) * scale - jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)


def random_affine(key: jax.Array, images: jax.Array, *, rotate: float, zoom: float, shift: float) -> jax.Array:
    """Turns, scales and moves each image by its own random amount, black around it (bilinear).

    The standard distortions for handwriting (Simard et al. 2003, "Best practices for convolutional neural networks
    applied to visual document analysis", section 2).

    Args:
      key: draws the amounts, uniformly.
      images: float [N, H, W, C], 0 is black.
      rotate: up to this many degrees to either side.
      zoom: scale between 1 - zoom and 1 + zoom, height and width apart.
      shift: up to this many pixels in each direction.
    """
    n, height, width, _ = images.shape
    angle_key, zoom_key, shift_key = jax.random.split(key, 3)
    angle = jnp.deg2rad(jax.random.uniform(angle_key, (n, 1, 1), minval=-rotate, maxval=rotate))
    scale = 1 + jax.random.uniform(zoom_key, (2, n, 1, 1), minval=-zoom, maxval=zoom)
    move = jax.random.uniform(shift_key, (2, n, 1, 1), minval=-shift, maxval=shift)
    y = jnp.arange(height)[:, None] - (height - 1) / 2 - move[0]
    x = jnp.arange(width)[None, :] - (width - 1) / 2 - move[1]
    source_y = (jnp.cos(angle) * y - jnp.sin(angle) * x) / scale[0] + (height - 1) / 2  # [N, H, W]
    source_x = (jnp.sin(angle) * y + jnp.cos(angle) * x) / scale[1] + (width - 1) / 2
    return jax.vmap(_bilinear)(images, source_y, source_x)


def _bilinear(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """image [H, W, C] read at fractional positions y, x [H, W]; black outside."""
    top, left = jnp.floor(y), jnp.floor(x)
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))

    def pixel(row, column):
        rows = jnp.clip(row + 1, 0, padded.shape[0] - 1).astype(jnp.int32)
        columns = jnp.clip(column + 1, 0, padded.shape[1] - 1).astype(jnp.int32)
        return padded[rows, columns]

    down, right = (y - top)[..., None], (x - left)[..., None]
    return ((1 - down) * ((1 - right) * pixel(top, left) + right * pixel(top, left + 1))
            + down * ((1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1)))


def random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Pads [N, H, W, C] by `pad` pixels of black and cuts [H, W] out of each image at its own random place."""
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)
    return jax.vmap(lambda image, corner: lax.dynamic_slice(image, (*corner, 0), images.shape[1:]))(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image of [N, H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1)), images[:, :, ::-1], images)


def augment(key: jax.Array, images: jax.Array, config) -> jax.Array:
    """A config's `augment` section over uint8 [N, H, W, C]: pixels 0..255, in float32 if any distortion is on.

    In this order: crop, flip, then rotation, scale and shift at once.
    """
    if config.crop:
        images = random_crop(jax.random.fold_in(key, 1), images, config.crop)
    if config.flip:
        images = random_flip(jax.random.fold_in(key, 2), images)
    if config.rotate or config.zoom or config.shift:
        images = random_affine(key, images.astype(jnp.float32), rotate=config.rotate, zoom=config.zoom,
                               shift=config.shift)
    return images
