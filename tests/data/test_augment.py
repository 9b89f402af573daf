"""Pixels prepared inside the compiled step, against numpy and scipy."""
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from modern_cnn.data import augment
from tests.data import files

IMAGES = files.pixels(6, 9, 12, 3).astype(np.float32)
KEY = jax.random.key(3)


def distort(images=IMAGES, key=KEY, rotate=0.0, zoom=0.0, shift=0.0):
    return augment.random_affine(key, jnp.asarray(images), rotate=rotate, zoom=zoom, shift=shift)


def test_normalize():
    images = files.pixels(4, 6, 5, 3)
    mean, std = (0.1, 0.5, 0.9), (0.2, 1.0, 0.05)
    out = augment.normalize(jnp.asarray(images), mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, (images / 255 - np.array(mean)) / np.array(std), rtol=2e-5, atol=2e-6)


def test_unit_and_symmetric_ends():
    ends = jnp.array([[0], [255]], jnp.uint8)
    np.testing.assert_allclose(augment.normalize(ends, (0.0,), (1.0,)), [[0], [1]], atol=1e-7)
    np.testing.assert_allclose(augment.normalize(ends, (0.5,), (0.5,)), [[-1], [1]], atol=1e-6)


def oracle(key, images, rotate, zoom, shift):
    """scipy on the same amounts, drawn again from the key: scale about the centre after turning, then move."""
    n, height, width, channels = images.shape
    angle_key, zoom_key, shift_key = jax.random.split(key, 3)
    draw = jax.random.uniform
    angles = np.deg2rad(np.asarray(draw(angle_key, (n, 1, 1), minval=-rotate, maxval=rotate), np.float64)).ravel()
    scales = 1 + np.asarray(draw(zoom_key, (2, n, 1, 1), minval=-zoom, maxval=zoom), np.float64).reshape(2, n)
    moves = np.asarray(draw(shift_key, (2, n, 1, 1), minval=-shift, maxval=shift), np.float64).reshape(2, n)
    centre = (np.array([height, width]) - 1) / 2
    out = np.empty(images.shape)
    for i in range(n):
        turn = np.array([[np.cos(angles[i]), -np.sin(angles[i])], [np.sin(angles[i]), np.cos(angles[i])]])
        matrix = np.diag(1 / scales[:, i]) @ turn  # from a place in the result to its place in the source
        for c in range(channels):
            padded = np.pad(images[i, :, :, c].astype(np.float64), 2)  # scipy's own edge does not fade into the black
            out[i, :, :, c] = ndimage.affine_transform(
                padded, matrix, offset=centre + 2 - matrix @ (centre + moves[:, i]), order=1,
                output_shape=(height, width))
    return out


@pytest.mark.parametrize("amounts", [
    {"rotate": 30.0}, {"zoom": 0.4}, {"shift": 3.0}, {"rotate": 180.0, "zoom": 0.5, "shift": 20.0},
    {"rotate": 10.0, "zoom": 0.1, "shift": 2.0},
], ids=["rotate", "zoom", "shift", "far", "quickstart"])
def test_random_affine_against_scipy(amounts):
    amounts = {"rotate": 0.0, "zoom": 0.0, "shift": 0.0} | amounts
    np.testing.assert_allclose(distort(**amounts), oracle(KEY, IMAGES, **amounts), atol=0.02)  # of 255


def test_nothing_is_the_identity():
    np.testing.assert_array_equal(distort(), IMAGES)


def test_amounts_differ_by_image_and_key_and_repeat():
    same = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    out = np.asarray(distort(same, rotate=20.0, zoom=0.2, shift=2.0))
    assert len({image.tobytes() for image in out}) == len(out)
    np.testing.assert_array_equal(out, distort(same, rotate=20.0, zoom=0.2, shift=2.0))
    assert (out != distort(same, jax.random.key(4), 20.0, 0.2, 2.0)).any()


def test_compiled_equals_eager():
    amounts = {"rotate": 20.0, "zoom": 0.2, "shift": 2.0}
    compiled = jax.jit(lambda images: distort(images, **amounts))(IMAGES)
    np.testing.assert_allclose(compiled, distort(**amounts), atol=0.01)


def test_augment_is_on_where_a_field_is():
    images = jnp.asarray(files.pixels(2, 8, 8, 1))
    off = {"rotate": 0.0, "zoom": 0.0, "shift": 0.0}
    assert augment.augment(KEY, images, SimpleNamespace(**off)) is images
    for field in off:
        out = augment.augment(KEY, images, SimpleNamespace(**off | {field: 0.5}))
        assert out.dtype == jnp.float32
        assert (out != images).any()
        assert 0 <= float(out.min()) <= float(out.max()) <= 255
