"""Pixels prepared inside the compiled step, against Pillow, numpy and scipy."""
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from modern_cnn.data import augment, formats
from tests.data import files

IMAGES = files.pixels(6, 9, 12, 3).astype(np.float32)
KEY = jax.random.key(3)


def distort(images=IMAGES, key=KEY, rotate=0.0, zoom=0.0, shift=0.0):
    return augment.random_affine(key, jnp.asarray(images), rotate=rotate, zoom=zoom, shift=shift)


def pixels_and_edges(*shape):
    """Random images, the last of them black and white."""
    images = files.pixels(*shape)
    images[-1] = np.where(images[-1] > 127, 255, 0)
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(28, 224), (28, 96), (32, 64), (32, 224), (8, 32), (28, 227), (7, 10),
                                            (28, 28), (1, 5)])
def test_enlarge_is_pillows_resize_to_the_bit(side, size, channels):
    images = pixels_and_edges(4, side, side, channels)
    out = jax.jit(augment.enlarge, static_argnums=1)(images, size)
    assert (out.shape, out.dtype) == ((4, size, size, channels), jnp.uint8)
    for image, ours in zip(images, np.asarray(out), strict=True):
        theirs = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
        np.testing.assert_array_equal(ours.squeeze(), theirs.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("height", "width", "size"), [(6, 5, 9), (5, 6, 6), (20, 32, 64), (32, 20, 33), (1, 9, 9),
                                                       (28, 2, 214)])  # the last: a pixel's centre, nearly
def test_enlarge_makes_square_as_at_loading(height, width, size):
    images = pixels_and_edges(3, height, width, 1)
    out = jax.jit(augment.enlarge, static_argnums=1)(images, size)
    np.testing.assert_array_equal(out, formats.resize_array(images, size, "these"))


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


def test_random_crop_cuts_every_place_of_the_padded_image():
    """Each result is a window of the numpy-padded image, and with many images each of the 5 x 5 places occurs."""
    image = files.pixels(1, 6, 7, 3)[0]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i:i + 6, j:j + 7].tobytes(): (i, j) for i in range(5) for j in range(5)}
    cropped = augment.random_crop(KEY, jnp.broadcast_to(image, (400, *image.shape)), 2)
    assert cropped.dtype == jnp.uint8
    places = [windows[np.asarray(crop).tobytes()] for crop in cropped]
    assert set(places) == set(windows.values())
    np.testing.assert_allclose(np.mean(places, axis=0), 2, atol=0.25)


def test_random_flip_mirrors_half_of_the_images():
    images = jnp.asarray(files.pixels(400, 4, 5, 2))
    flipped = augment.random_flip(KEY, images)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert 0.42 < mirrored.mean() < 0.58


def test_crop_and_flip_keep_bytes_and_draw_apart():
    images = jnp.asarray(files.pixels(64, 8, 8, 1))
    off = {"crop": 0, "flip": False, "rotate": 0.0, "zoom": 0.0, "shift": 0.0}
    both = augment.augment(KEY, images, SimpleNamespace(**off | {"crop": 2, "flip": True}))
    crop = augment.augment(KEY, images, SimpleNamespace(**off | {"crop": 2}))
    mirrored = (both == crop[:, :, ::-1]).all((1, 2, 3))
    assert both.dtype == jnp.uint8
    assert ((both == crop).all((1, 2, 3)) | mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_augment_is_on_where_a_field_is():
    images = jnp.asarray(files.pixels(2, 8, 8, 1))
    off = {"crop": 0, "flip": False, "rotate": 0.0, "zoom": 0.0, "shift": 0.0}
    assert augment.augment(KEY, images, SimpleNamespace(**off)) is images
    for field in ("rotate", "zoom", "shift"):
        out = augment.augment(KEY, images, SimpleNamespace(**off | {field: 0.5}))
        assert out.dtype == jnp.float32
        assert (out != images).any()
        assert 0 <= float(out.min()) <= float(out.max()) <= 255
