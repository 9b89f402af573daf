"""Changes of colour against Pillow, the standard library's colour systems, and the paper's formula in numpy."""
import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from modern_cnn.data import color
from tests.data import files

KEY = jax.random.key(5)
IMAGES = files.pixels(8, 7, 6, 3)


def draw(shape, low, high):
    """Return what the functions draw from KEY, in float64."""
    return np.asarray(jax.random.uniform(KEY, shape, minval=low, maxval=high), np.float64)


@pytest.mark.parametrize("amount", [0.4, 3.0])  # the second: factors from 0, not from -2
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("change", "enhance"), [
    (color.brightness, ImageEnhance.Brightness), (color.contrast, ImageEnhance.Contrast),
    (color.saturation, ImageEnhance.Color)], ids=["brightness", "contrast", "saturation"])
def test_brightness_contrast_and_saturation_are_pillows(change, enhance, channels, amount):
    images = IMAGES[..., :channels]
    got = np.asarray(jax.jit(change)(KEY, images.astype(np.float32), amount))
    factors = draw((8, 1, 1, 1), max(0, 1 - amount), 1 + amount).ravel()
    assert factors.max() > 1 > factors.min() >= 0
    for image, ours, factor in zip(images, got, factors, strict=True):
        theirs = np.asarray(enhance(Image.fromarray(image.squeeze())).enhance(factor), np.float64)
        # Pillow rounds the grey that it moves away from, and the result down.
        np.testing.assert_allclose(ours.squeeze(), theirs, atol=1.01 + abs(1 - factor) / 2)


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_hue_is_that_of_the_standard_library(amount):
    images = np.concatenate([IMAGES, np.full((1, 7, 6, 3), 90), np.eye(3)[None, None].repeat(7, 1).repeat(2, 2) * 255])
    got = jax.jit(color.hue)(KEY, images.astype(np.float32), amount)
    turns = draw((10, 1, 1, 1), -amount, amount).ravel()
    for image, ours, turn in zip(images / 255, np.asarray(got), turns, strict=True):
        for pixel, out in zip(image.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(out, 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)),
                                       atol=2e-3)


def test_lighting_by_the_papers_formula():
    """Krizhevsky et al. 2012, section 4.1: [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T is added to every pixel."""
    images = jnp.full((2000, 1, 2, 3), 127.0, jnp.float32)
    shifts = np.asarray(color.lighting(KEY, images, 0.1), np.float64)[:, 0] - 127
    np.testing.assert_array_equal(shifts[:, 0], shifts[:, 1])
    directions = np.array(color.LIGHTING_COMPONENTS)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=2e-3)
    multiples = shifts[:, 0] @ directions / 255 / np.array(color.LIGHTING_STD)
    np.testing.assert_allclose(multiples.std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(multiples.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(multiples.T), np.eye(3), atol=0.08)
    alphas = 0.1 * np.asarray(jax.random.normal(KEY, (2000, 1, 1, 3)), np.float64).reshape(-1, 3)
    np.testing.assert_allclose(shifts[:, 0], 255 * (alphas * color.LIGHTING_STD) @ directions.T, atol=1e-3)


@pytest.mark.parametrize("name", color.CHANGES)
def test_each_image_has_its_own_amount_and_no_amount_changes_nothing(name):
    same = jnp.broadcast_to(jnp.asarray(IMAGES[:1], jnp.float32), IMAGES.shape)
    out = np.asarray(color.CHANGES[name](KEY, same, 0.3))
    assert len({image.tobytes() for image in out}) == len(out)
    assert 0 <= out.min() <= out.max() <= 255
    assert (out != np.asarray(color.CHANGES[name](jax.random.key(6), same, 0.3))).any()
    np.testing.assert_allclose(color.CHANGES[name](KEY, same, 0.0), same, atol=1e-3)
