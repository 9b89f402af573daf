"""Pixels prepared inside the compiled step, against Pillow, numpy and scipy; crops on the host by the same rule."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

from modern_cnn.data import augment, color, decoding
from modern_cnn.errors import UserError
from modern_cnn.settings import Augment
from tests.data import files

IMAGES = files.pixels(6, 9, 12, 3).astype(np.float32)
KEY = jax.random.key(3)


def distort(images=IMAGES, key=KEY, /, **amounts: float):
    return augment.random_affine(key, jnp.asarray(images), **{"rotate": 0.0, "zoom": 0.0, "shift": 0.0} | amounts)


def pixels_and_edges(*shape):
    """Return random images, the last of them black and white."""
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
    np.testing.assert_array_equal(out, decoding.resize_array(images, size, "these"))


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
    """Return what scipy makes with the same amounts, drawn again: rotate and scale about the centre, then move."""
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
        offset: Any = centre + 2 - matrix @ (centre + moves[:, i])
        for c in range(channels):
            padded = np.pad(images[i, :, :, c].astype(np.float64), 2)  # scipy's own edge does not fade into the black
            out[i, :, :, c] = ndimage.affine_transform(
                padded, matrix, offset=offset, order=1, output_shape=(height, width))
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
    assert (out != distort(same, jax.random.key(4), rotate=20.0, zoom=0.2, shift=2.0)).any()


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


def test_a_crop_may_reflect_the_edges():
    image = files.pixels(1, 6, 7, 3)[0]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
    windows = {padded[i:i + 6, j:j + 7].tobytes() for i in range(5) for j in range(5)}
    images = jnp.broadcast_to(image, (100, *image.shape))
    assert {np.asarray(crop).tobytes() for crop in augment.random_crop(KEY, images, 2, reflect=True)} <= windows
    for reflect in (False, True):
        got = augment.augment(KEY, images, Augment(crop=2, reflect=reflect))
        black = (np.asarray(got) == 0).all((2, 3)).any(1)  # a row
        assert black.any() != reflect


def test_alternating_flips_depend_on_the_image_and_the_epoch_alone():
    numbers, other = jnp.arange(400), jnp.arange(399, -1, -1)
    first = augment.alternating(KEY, numbers, 0)
    assert 0.42 < first.mean() < 0.58
    for epoch in range(4):
        np.testing.assert_array_equal(augment.alternating(KEY, numbers, epoch), first ^ bool(epoch % 2))
    np.testing.assert_array_equal(augment.alternating(KEY, other, 2), first[::-1])
    assert (augment.alternating(jax.random.key(1), numbers, 0) != first).any()
    images = jnp.asarray(files.pixels(400, 4, 5, 2))
    flipped = augment.augment(KEY, images, Augment(flip=True, alternate_flip=True), mirrored=first)
    np.testing.assert_array_equal(flipped, np.where(first[:, None, None, None], images[:, :, ::-1], images))


def test_random_flip_mirrors_half_of_the_images():
    images = jnp.asarray(files.pixels(400, 4, 5, 2))
    flipped = augment.random_flip(KEY, images)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert 0.42 < mirrored.mean() < 0.58


def test_crop_and_flip_keep_bytes_and_draw_apart():
    images = jnp.asarray(files.pixels(64, 8, 8, 1))
    both = augment.augment(KEY, images, Augment(crop=2, flip=True))
    crop = augment.augment(KEY, images, Augment(crop=2))
    mirrored = (both == crop[:, :, ::-1]).all((1, 2, 3))
    assert both.dtype == jnp.uint8
    assert ((both == crop).all((1, 2, 3)) | mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_flips_and_shifts_are_drawn_apart():
    """Whether an image is mirrored says nothing about where it moves to."""
    images = np.zeros((400, 9, 9, 1), np.uint8)
    images[:, 4, 3] = 255
    out = np.asarray(augment.augment(KEY, jnp.asarray(images), Augment(flip=True, shift=0.9)))[..., 0]
    mirrored = out[:, :, 5:].sum((1, 2)) > out[:, :, :4].sum((1, 2))
    down = out[:, 5:].sum((1, 2)) > out[:, :4].sum((1, 2))
    assert 0.4 < (mirrored == down).mean() < 0.6


def test_augment_is_on_where_a_field_is():
    images = jnp.asarray(files.pixels(4, 8, 8, 3))
    assert augment.augment(KEY, images, Augment()) is images
    amounts: dict[str, Any] = dict.fromkeys(("resized_crop", "rotate", "zoom", "shift", *color.CHANGES), 0.5)
    for field, amount in amounts.items():
        config = Augment(**{field: amount})
        out = jax.jit(lambda images, config=config: augment.augment(KEY, images, config))(images)
        assert out.dtype == jnp.float32
        assert (out != images).any()
        assert 0 <= float(out.min()) <= float(out.max()) <= 255 + 1e-3
    assert augment.augment(KEY, images, Augment(cutout=3)).dtype == jnp.uint8
    assert augment.augment(KEY, images, Augment(resized_crop=0.5), cropped=True) is images
    grey = images[..., :1]
    assert augment.augment(KEY, grey, Augment(**dict.fromkeys(color.RGB_ONLY, 0.5))) is grey


AMOUNTS = {"resized_crop": 0.3, "rotate": 20.0, "zoom": 0.2, "shift": 1.0, "brightness": 0.4, "contrast": 0.4,
           "saturation": 0.4, "hue": 0.1, "lighting": 0.1, "cutout": 3, "erase": 0.5,
           "mixup": 0.4, "cutmix": 1.0}


def test_a_change_of_colour_is_the_one_that_its_field_names():
    """Numpy tells them apart by what they keep; no pixel comes near to black or white."""
    images = 64 + files.pixels(8, 7, 6, 3).astype(np.float64) / 2
    grey = (images @ [0.299, 0.587, 0.114])[..., None]

    def scaled(out, base):
        """Whether the distances from `base` are those of the images times one factor for each image."""
        near, far = images - base, out - base
        factor = (near * far).sum((1, 2, 3), keepdims=True) / (near ** 2).sum((1, 2, 3), keepdims=True)
        return abs(far - factor * near).max() < 0.01

    keeps = {"brightness": lambda out: scaled(out, 0),
             "contrast": lambda out: scaled(out, grey.mean((1, 2, 3), keepdims=True)),
             "saturation": lambda out: scaled(out, grey),
             "hue": lambda out: max(abs(way(out, 3) - way(images, 3)).max() for way in (np.max, np.min)) < 0.01,
             "lighting": lambda out: np.ptp(out - images, (1, 2)).max() < 0.01}
    for field in color.CHANGES:
        out = np.asarray(augment.augment(KEY, jnp.asarray(images, jnp.float32), Augment(**{field: 0.2})), np.float64)
        assert abs(out - images).max() > 1
        assert [name for name, holds in keeps.items() if holds(out)] == [field]


def test_every_draw_has_a_key_of_its_own(monkeypatch):
    """Nor one that a draw makes of its key: `split` and `fold_in` give the same keys."""
    def noted(draw):
        return lambda key, *args, **options: (keys.append(key), draw(key, *args, **options))[1]

    for name in ("uniform", "normal", "randint", "bernoulli", "beta", "rademacher"):
        monkeypatch.setattr(jax.random, name, noted(getattr(jax.random, name)))
    keys: list[jax.Array] = []
    images, config = jnp.asarray(files.pixels(4, 8, 8, 3)), Augment(**AMOUNTS, crop=2, flip=True, randaugment=2)

    @jax.jit
    def used_and_made(key):
        augment.mix(key, augment.augment(key, images, config), jnp.arange(4), config)
        return [jax.random.key_data(each) for each in (jnp.stack(keys), jax.vmap(jax.random.split)(jnp.stack(keys)))]

    used, made = ({*map(tuple, each.reshape(-1, 2).tolist())} for each in used_and_made(KEY))
    assert len(keys) == len(used) == 31
    assert not used & made


@pytest.mark.parametrize("names", [("rotate", "contrast", "mixup"), pytest.param(AMOUNTS, marks=pytest.mark.slow)],
                         ids=["some", "all"])
def test_traced_amounts_are_the_same_amounts(names):
    chosen = {name: AMOUNTS[name] for name in names}
    images, labels = jnp.asarray(files.pixels(16, 8, 8, 3)), jnp.arange(16)

    def both(amounts):
        config = Augment(**amounts)
        return augment.mix(KEY, augment.augment(KEY, images, config), labels, config)

    got, want = jax.jit(both)(chosen), jax.jit(lambda: both(chosen))()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=0.02, err_msg=name)


@pytest.mark.parametrize(("height", "width", "smallest"), [(32, 32, 0.08), (12, 20, 0.3), (20, 5, 0.9)])
def test_random_resized_crop_is_pillows(height, width, smallest):
    """Also where no box fits, in the last: the centre is taken."""
    images = pixels_and_edges(24, height, width, 3)
    boxes = np.stack(augment.crop_boxes(KEY, 24, height, width, smallest), axis=1)
    out = np.asarray(jax.jit(augment.random_resized_crop)(KEY, images, smallest))
    for image, ours, (top, left, high, wide) in zip(images, out, boxes, strict=True):
        assert 0 <= top <= top + high <= height
        assert 0 <= left <= left + wide <= width
        theirs = Image.fromarray(image).crop((left, top, left + wide, top + high)).resize((width, height), 2)
        np.testing.assert_allclose(ours, np.asarray(theirs), atol=1.01)  # it rounds after each axis


def test_crop_boxes_on_the_device_have_torchvisions_distribution():
    top, left, high, wide = map(np.asarray, augment.crop_boxes(KEY, 5000, 400, 500, 0.08))
    shares, ratios = high * wide / 200_000, np.log(wide / high)
    assert 0.08 - 1e-2 <= shares.min() < 0.1
    assert abs(np.median(ratios)) < 0.05
    assert ratios.min() >= np.log(3 / 4) - 0.02
    assert ratios.max() <= np.log(4 / 3) + 0.02
    area, ratio = np.random.RandomState(1).uniform([[0.08], [np.log(3 / 4)]], [[1.0], [np.log(4 / 3)]], (2, 100_000))
    theirs = np.sqrt(200_000 * area * np.exp([[1.0], [-1.0]] * ratio))
    assert abs(shares.mean() - area[(theirs[0] <= 500) & (theirs[1] <= 400)].mean()) < 0.02
    for place, room in ((top, 400 - high), (left, 500 - wide)):  # uniform over where there is room
        assert abs((place[room > 20] / room[room > 20]).mean() - 0.5) < 0.02
    none = np.stack(augment.crop_boxes(KEY, 3, 10, 100, 1.0))
    np.testing.assert_array_equal(none, np.broadcast_to([[0], [43], [10], [13]], (4, 3)))  # none fits: the centre


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1))
def test_crop_boxes_lie_inside_and_are_large_enough(seed, width, height, smallest):
    left, top, right, bottom = augment.crop_box(np.random.RandomState(seed), width, height, smallest)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crop_boxes_have_torchvisions_distribution():
    boxes = [augment.crop_box(np.random.RandomState(seed), 500, 400, 0.08) for seed in range(2000)]
    sides = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    shares, ratios = sides.prod(1) / 200_000, np.log(sides[:, 0] / sides[:, 1])
    assert 0.08 - 1e-2 <= shares.min() < 0.1
    assert abs(np.median(ratios)) < 0.05
    assert ratios.min() >= np.log(3 / 4) - 0.02
    assert ratios.max() <= np.log(4 / 3) + 0.02
    area, ratio = np.random.RandomState(1).uniform([[0.08], [np.log(3 / 4)]], [[1.0], [np.log(4 / 3)]], (2, 100_000))
    wide, high = np.sqrt(200_000 * area * np.exp([[1.0], [-1.0]] * ratio))
    assert abs(shares.mean() - area[(wide <= 500) & (high <= 400)].mean()) < 0.02
    assert {augment.crop_box(np.random.RandomState(0), 100, 10, 1.0)} == {(43, 0, 56, 10)}  # none fits: the centre


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_is_a_square_around_any_pixel(side):
    """The squares are those that numpy cuts around each of the 6 x 7 pixels; all occur, alike often."""
    squares = {}
    for y in range(6):
        for x in range(7):
            square = np.full((6, 7, 1), 9, np.uint8)
            square[max(0, y - side // 2):y - side // 2 + side, max(0, x - side // 2):x - side // 2 + side] = 0
            squares.setdefault(square.tobytes(), []).append((y, x))
    out = np.asarray(augment.cutout(KEY, jnp.full((2100, 6, 7, 1), 9, jnp.uint8), side))
    counts = dict.fromkeys(squares, 0)
    for image in out:
        counts[image.tobytes()] += 1
    for square, centres in squares.items():
        assert 0.3 < counts[square] / (50 * len(centres)) < 2


def mixed(count=1000, **fields):
    """Return images of one value each, mixed: each pixel is one of two numbers of images, or lies between them."""
    images = np.broadcast_to(np.arange(count).reshape(-1, 1, 1, 1), (count, 8, 9, 1)).astype(np.float32)
    batch = augment.mix(KEY, jnp.asarray(images), jnp.arange(count), Augment(**fields))
    assert set(batch) == {"image", "label", "other", "share"}
    label, other, share = (np.asarray(batch[name]) for name in ("label", "other", "share"))
    assert share.min() >= 0
    assert share.max() <= 0.5
    before = (np.arange(count) - 1) % count
    assert (np.stack([np.minimum(label, other), np.maximum(label, other)])
            == np.stack([np.minimum(np.arange(count), before), np.maximum(np.arange(count), before)])).all()
    return np.asarray(batch["image"], np.float64), label, other, share


def folded(alpha):
    """Return the distribution of the smaller of two shares from Beta(alpha, alpha)."""
    return lambda x: 2 * stats.beta(alpha, alpha).cdf(np.minimum(x, 0.5))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_blends_images_as_it_blends_labels(alpha):
    images, label, other, share = mixed(mixup=alpha)
    wanted = (1 - share.astype(np.float64)) * label + share * other
    np.testing.assert_allclose(images, np.broadcast_to(wanted.reshape(-1, 1, 1, 1), images.shape), atol=1e-3)
    assert 0.45 < (label == np.arange(1000)).mean() < 0.55
    assert stats.kstest(share, folded(alpha)).pvalue > 0.01


def test_cutmix_pastes_a_box_and_counts_it():
    images, label, other, share = mixed(cutmix=1.0)
    own = images == label.reshape(-1, 1, 1, 1)
    assert (own | (images == other.reshape(-1, 1, 1, 1))).all()
    np.testing.assert_allclose(1 - own.mean((1, 2, 3)), share, atol=1e-6)
    pasted = images[..., 0] != np.arange(1000)[:, None, None]
    rows, columns = pasted.any(2), pasted.any(1)
    np.testing.assert_array_equal(pasted, rows[:, :, None] & columns[:, None, :])
    for runs in (rows, columns):  # each a row of pixels without a gap
        assert (np.abs(np.diff(np.pad(runs, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()
    sides = np.sqrt(np.random.RandomState(0).uniform(size=(1, 4000)))
    high, wide = (sides * [[8], [9]]).astype(int)
    y, x = (np.random.RandomState(1).randint(0, length, 4000) for length in (8, 9))
    inside = [np.minimum(length, at - side // 2 + side) - np.maximum(0, at - side // 2)
              for at, side, length in ((y, high, 8), (x, wide, 9))]
    assert abs(pasted.mean() - (inside[0] * inside[1]).mean() / 72) < 0.03


def test_half_of_the_images_are_mixed_by_either_where_both_are_on():
    images, *_, share = mixed(mixup=1.0, cutmix=1.0)
    blended = ((images % 1 != 0).any((1, 2, 3)))
    assert 0.45 < blended[share > 0.01].mean() < 0.6  # boxes of no pixel are not counted


def test_erasing_fills_a_box_of_the_papers_size_with_random_pixels():
    """The boxes are counted in the pixels, and compared with the distributions by SciPy."""
    images = jnp.full((3000, 64, 64, 2), 1000.5)
    out = np.asarray(augment.erase(KEY, images, 0.6))
    erased = out[..., 0] != 1000.5
    np.testing.assert_array_equal(erased, out[..., 1] != 1000.5)  # every channel
    found = erased.any((1, 2))
    assert abs(found.mean() - 0.6) < 0.03
    high, wide = (erased[found].any(axis).sum(1) for axis in (2, 1))
    np.testing.assert_array_equal(high * wide, erased[found].sum((1, 2)))  # a box, and all of it
    assert stats.kstest(high * wide / 64**2, stats.uniform(0.02, 0.31).cdf).statistic < 0.04
    assert stats.kstest(np.log(wide / high), stats.uniform(np.log(0.3), np.log(11)).cdf).statistic < 0.04
    tops = erased[found].any(2).argmax(1)[high < 48] / (64 - high[high < 48])
    assert abs(tops.mean() - 0.5) < 0.02
    pixels = out[out != 1000.5]
    assert np.bincount(pixels.astype(int), minlength=256).min() > 0.9 * len(pixels) / 256
    assert (pixels == np.round(pixels)).all()
    assert np.corrcoef(out[found][0][erased[found][0]].T)[0, 1] < 0.9  # each channel has its own
    assert augment.erase(KEY, jnp.zeros((2, 8, 8, 1), jnp.uint8), 1.0).dtype == jnp.uint8


@pytest.mark.parametrize("name", ["crop", "shift", "cutout", "test_shift"])
def test_more_pixels_than_an_image_has_are_refused(name):
    augment.augment(KEY, jnp.asarray(IMAGES), Augment(**{name: 12}))
    with pytest.raises(UserError, match=f"config.augment.{name}=13 is more than the 12 pixels of an image"):
        augment.augment(KEY, jnp.asarray(IMAGES), Augment(**{name: 13}))


def test_nothing_is_mixed_where_both_are_off():
    images, labels = jnp.zeros((2, 3, 3, 1), jnp.uint8), jnp.arange(2)
    batch = augment.mix(KEY, images, labels, Augment())
    assert batch["image"] is images
    assert batch["label"] is labels
    assert len(batch) == 2
