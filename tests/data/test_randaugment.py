"""RandAugment against the functions of Pillow that torchvision's calls, one operation and image at a time."""
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from modern_cnn.data import augment, randaugment
from modern_cnn.data.randaugment import OPERATIONS
from modern_cnn.settings import Augment
from tests.data import files

KEY = jax.random.key(3)
# Values in a narrow range, so that autocontrast has something to stretch; enough pixels for equalize to round.
IMAGES = (40 + files.pixels(2, 40, 44, 3).astype(int) // 2).astype(np.uint8)


def pillow(image, name, strength):
    """The operation as torchvision's RandAugment asks Pillow for it; strength from -1 to 1 of its 30."""
    width, height = image.size
    shear, size = 0.3 * strength, abs(strength)

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, shear, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, shear, 1, 0),
        "translate_x": lambda: affine(1, 0, -int(150 / 331 * width * strength), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -int(150 / 331 * height * strength)),
        "rotate": lambda: image.rotate(30 * strength, Image.Resampling.NEAREST),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
        "color": lambda: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(30 * size / 7.5)),
        "solarize": lambda: ImageOps.solarize(image, 255 * (1 - size)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_is_pillows(channels):
    apply = jax.jit(jax.vmap(randaugment.apply, (0, None, None)))
    images = IMAGES[..., :channels]
    for name in OPERATIONS:
        for strength in (0.0, 0.3, -0.3, 1.0, -1.0):
            got = np.asarray(apply(jnp.asarray(images, jnp.float32), OPERATIONS.index(name), strength))
            want = np.stack([np.asarray(pillow(Image.fromarray(image.squeeze()), name, strength)) for image in images])
            off = abs(got - want.reshape(got.shape).astype(float))
            if name in randaugment.MOVES:  # Pillow's positions have 16 bits behind the point
                assert (off > 0).mean() < 0.01, (name, strength)
            else:  # sums in another order, of numbers that are then cut off
                assert off.max() <= 1, (name, strength)
                assert (off > 0).mean() < 0.01, (name, strength)
            if name not in ("identity", *({"color"} if channels == 1 else ())) and abs(strength) == 1:
                assert (got != images).mean() > 0.3, name


def test_images_of_one_value_and_of_one_pixel():
    for shape in ((5, 5, 3), (1, 1, 1), (2, 3, 1)):
        image = jnp.full(shape, 7.0)
        for which, name in enumerate(OPERATIONS):
            got = np.asarray(randaugment.apply(image, which, 0.0))
            np.testing.assert_array_equal(got, 7, err_msg=name)


def test_each_image_gets_its_own_operations_all_alike_often():
    """Which operation an image got shows in what became of it; all are drawn, in both directions."""
    count = 1500
    image = np.asarray(IMAGES[0], np.float32)
    images = jnp.broadcast_to(image, (count, *image.shape))
    got = np.asarray(jax.jit(lambda key: randaugment.rand_augment(key, images, 1, 21.0))(KEY))
    apply = jax.jit(randaugment.apply)
    outcomes = {np.asarray(apply(image, which, strength)).tobytes(): name
                for which, name in enumerate(OPERATIONS) for strength in (0.7, -0.7)}
    found = Counter(each.tobytes() for each in got)
    assert {*found} <= {*outcomes}
    assert len(found) == 1 + 2 * (len(randaugment.MOVES) + len(randaugment.BLENDS)) + len(randaugment.TABLES)
    by_name = Counter()
    for each, times in found.items():
        by_name[outcomes[each]] += times
    expected = count / len(OPERATIONS)
    assert all(abs(times - expected) < 5 * math.sqrt(expected) for times in by_name.values()), by_name


def test_augment_applies_it_so_many_times():
    images = jnp.asarray(IMAGES)
    out = augment.augment(KEY, images, Augment(randaugment=2, magnitude=9.0))
    key = jax.random.fold_in(KEY, 13)
    np.testing.assert_array_equal(out, randaugment.rand_augment(key, images, 2, 9.0))
    one = randaugment.rand_augment(key, images, 1, 9.0)
    assert (out != one).any()
    assert out.dtype == jnp.float32
    assert augment.augment(KEY, images, Augment(magnitude=20.0)) is images
