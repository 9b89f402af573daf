"""From uint8 pixels to what a network sees, in the compiled step.

All amounts may be traced, but for `crop`, `flip` and the number of operations of `randaugment`.
"""
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modern_cnn.data import color, randaugment
from modern_cnn.data.decoding import resized_side
from modern_cnn.errors import UserError
from modern_cnn.functional.regularize import is_zero
from modern_cnn.settings import Augment

PILLOW_BITS = 22  # after the binary point, in the weights of Pillow's fixed-point arithmetic
CROP_RATIOS = (3 / 4, 4 / 3)  # width to height, of random resized crops by torchvision's rule, as the next
CROP_TRIES = 10
ERASED = (0.02, 0.33)  # share of the area that is erased, and width to height of the box: torchvision's, too
ERASED_RATIOS = (0.3, 3.3)
MIX_FOLD = 100  # folded into the key of a batch for the draws of `mix`

Mixed = tuple[jax.Array, jax.Array]  # images [N, H, W, C], and how much of each comes from the other image [N]


def enlarge(images: jax.Array, size: int) -> jax.Array:
    """Return uint8 [N, H, W, C] as [N, size, size, C], equal to the bit to `decoding.resize`; H and W at most `size`.

    In an enlarged image, Pillow's bilinear filter (Resample.c) takes at most two pixels along each axis. It works in
    integers, along the width first and then the height, and rounds after each.
    """
    sides = images.shape[1:3]
    for axis in (2, 1):
        length, start = resized_side(images.shape[axis], min(sides), size)
        centre = (start + np.arange(size) + 0.5) * (images.shape[axis] / length)
        total = 1 << (PILLOW_BITS - 1)  # a half, to round
        before = np.floor(centre - 0.5).astype(np.int32)
        for pixel in (before, before + 1):
            weight = np.floor((1 - abs(pixel - centre + 0.5)) * (1 << PILLOW_BITS) + 0.5).astype(np.int32)
            neighbour = jnp.take(images, pixel, axis=axis, mode="clip")  # outside, the edge pixel is repeated
            total += neighbour * np.expand_dims(weight, (0, 3, 3 - axis))
        images = total >> PILLOW_BITS
    return images.astype(jnp.uint8)


def normalize(images: jax.Array | np.ndarray, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Return pixels 0..255 [..., C] as (pixels / 255 - mean) / std in float32; mean and std of each channel."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    return jnp.asarray(images, jnp.float32) * scale - jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)


def random_affine(key: jax.Array, images: jax.Array, *, rotate: float | jax.Array, zoom: float | jax.Array,
                  shift: float | jax.Array) -> jax.Array:
    """Return images, each rotated, scaled and moved by its own random amounts: bilinear, black outside the image.

    The standard distortions for handwriting (Simard et al. 2003, "Best practices for convolutional neural networks
    applied to visual document analysis", section 2). Images are float [N, H, W, C], where 0 is black. The amounts are
    uniform: up to `rotate` degrees and `shift` pixels to either side, and separately for height and width 1 +- `zoom`.
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
    """Return an image [H, W, C] at the fractional positions y, x [H, W]; black outside."""
    # jax.scipy.ndimage.map_coordinates adds in another order: a third of the pixels differ, by up to 4.6e-5 of 255.
    top, left = jnp.floor(y), jnp.floor(x)
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))

    def pixel(row, column):
        rows = jnp.clip(row + 1, 0, padded.shape[0] - 1).astype(jnp.int32)
        return padded[rows, jnp.clip(column + 1, 0, padded.shape[1] - 1).astype(jnp.int32)]

    down, right = (y - top)[..., None], (x - left)[..., None]
    return ((1 - down) * ((1 - right) * pixel(top, left) + right * pixel(top, left + 1))
            + down * ((1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1)))


def random_crop(key: jax.Array, images: jax.Array, pad: int, reflect: bool = False) -> jax.Array:
    """Return images [N, H, W, C] padded with `pad` pixels, each cropped to [H, W] at its own random place.

    The padding is black, or with `reflect` the image itself, mirrored at its edge pixels.
    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect" if reflect else "constant")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)
    return jax.vmap(lambda image, corner: lax.dynamic_slice(image, (*corner, 0), images.shape[1:]))(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Return images [N, H, W, C], each mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1)), images[:, :, ::-1], images)


def alternating(key: jax.Array, numbers: jax.Array, epoch: int | jax.Array) -> jax.Array:
    """Return bool [N], whether the images with these numbers in the training set are mirrored in an epoch, from 0 on.

    In the first epoch each is with probability 1/2, by `key` and its number alone; from then on in every other epoch.
    So no two epochs in a row show the same image (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6).
    """
    first = jax.vmap(lambda number: jax.random.bernoulli(jax.random.fold_in(key, number)))(numbers)
    return first ^ (epoch % 2 == 1)


def crop_box(random: np.random.RandomState, width: int, height: int, smallest: float) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a random crop of one image, on the host.

    Its share of the area is between `smallest` and 1, and its ratio is in CROP_RATIOS: "Inception" cropping (Szegedy et
    al. 2014, section 6) by torchvision's rule. If CROP_TRIES do not fit, it is the largest central crop of that kind.
    """
    low, high = map(math.log, CROP_RATIOS)
    for _ in range(CROP_TRIES):
        area, ratio = width * height * random.uniform(smallest, 1), math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w + 1), random.randint(0, height - h + 1)
            return left, top, left + w, top + h
    w, h = min(width, round(height * CROP_RATIOS[1])), min(height, round(width / CROP_RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_boxes(key: jax.Array, count: int, height: int, width: int, smallest: float | jax.Array, largest: float = 1.0,
               ratios: tuple[float, float] = CROP_RATIOS) -> list[jax.Array]:
    """Return [top, left, box height, box width], int32 [count] each: `crop_box` for a batch on the device.

    The boxes have at most the share `largest` of the area.
    """
    area_key, ratio_key, *place_keys = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (CROP_TRIES, count), minval=smallest, maxval=largest)
    low, high = map(math.log, ratios)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (CROP_TRIES, count), minval=low, maxval=high))
    sides = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio]))).astype(jnp.int32)  # [2, CROP_TRIES, N]
    lengths = np.array([height, width]).reshape(2, 1, 1)
    fits = jnp.all((sides > 0) & (sides <= lengths), axis=0)
    # If no try fits: the largest central box with an allowed ratio.
    central = np.array([[[min(height, round(width / ratios[0]))]], [[min(width, round(height * ratios[1]))]]])
    first = jnp.argmax(fits, axis=0)
    sides = jnp.where(fits.any(axis=0), jnp.take_along_axis(sides, first[None, None], axis=1), central)[:, 0]
    places = jnp.stack([jax.random.randint(place_key, (count,), 0, length - side + 1)
                        for place_key, length, side in zip(place_keys, (height, width), sides, strict=True)])
    places = jnp.where(fits.any(axis=0), places, (lengths[:, 0] - sides) // 2)
    return [*places, *sides]


def random_resized_crop(key: jax.Array, images: jax.Array, smallest: float | jax.Array) -> jax.Array:
    """Return float32 [N, H, W, C]: of each image a random box, resized to the image's size: torchvision's, bilinear.

    The box is no larger than the image, so a pixel is a mean of at most two along each axis, none outside the box.
    """
    count, height, width, _ = images.shape
    top, left, box_height, box_width = crop_boxes(key, count, height, width, smallest)

    def weights(start, length, size):  # [N, pixel of the result, pixel of the image]
        start, length = start[:, None], length[:, None]
        centre = jnp.clip(start + (jnp.arange(size) + 0.5) * (length / size) - 0.5, start, start + length - 1)
        return jnp.maximum(0, 1 - jnp.abs(centre[:, :, None] - jnp.arange(size)))

    images = jnp.einsum("nyh,nhwc->nywc", weights(top, box_height, height), images.astype(jnp.float32),
                        precision="highest")
    return jnp.einsum("nxw,nywc->nyxc", weights(left, box_width, width), images, precision="highest")


def _box(key: jax.Array, images: jax.Array, height: int | jax.Array, width: int | jax.Array) -> jax.Array:
    """Return bool [N, H, W, 1]: a box around a random pixel, cut off at the image's edges; sides are ints or [N, 1]."""
    def inside(key, length, side):
        first = jax.random.randint(key, (len(images), 1), 0, length) - side // 2
        return (jnp.arange(length) >= first) & (jnp.arange(length) < first + side)

    row_key, column_key = jax.random.split(key)
    rows, columns = inside(row_key, images.shape[1], height), inside(column_key, images.shape[2], width)
    return rows[:, :, None, None] & columns[:, None, :, None]


def cutout(key: jax.Array, images: jax.Array, side: int | jax.Array) -> jax.Array:
    """Return images, each with a black square around a random pixel (DeVries and Taylor 2017, in the mean colour)."""
    return jnp.where(_box(key, images, side, side), jnp.zeros((), images.dtype), images)


def erase(key: jax.Array, images: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Return images, each with probability `rate` with a box of random pixels (Zhong et al. 2017, "Random erasing").

    The share of the box is uniform in ERASED, the logarithm of its ratio in that of ERASED_RATIOS. All of the box lies
    in the image.
    """
    count, height, width, _ = images.shape
    which_key, box_key, pixel_key = jax.random.split(key, 3)
    top, left, box_height, box_width = (each[:, None] for each in crop_boxes(
        box_key, count, height, width, *ERASED, ERASED_RATIOS))
    rows, columns = jnp.arange(height), jnp.arange(width)
    box = (((rows >= top) & (rows < top + box_height))[:, :, None, None]
           & ((columns >= left) & (columns < left + box_width))[:, None, :, None])
    chosen = jax.random.bernoulli(which_key, rate, (count, 1, 1, 1))
    return jnp.where(box & chosen, jax.random.randint(pixel_key, images.shape, 0, 256).astype(images.dtype), images)


def mixup(key: jax.Array, images: jax.Array, others: jax.Array, alpha: float | jax.Array) -> Mixed:
    """Return images blended with `others`, with shares of the other from Beta(alpha, alpha) (Zhang et al. 2017)."""
    share = jax.random.beta(key, alpha, alpha, (len(images),))
    return images + share[:, None, None, None] * (others - images), share


def cutmix(key: jax.Array, images: jax.Array, others: jax.Array, alpha: float | jax.Array) -> Mixed:
    """Return images, each with a box of the other pasted into the same place (Yun et al. 2019).

    The box has the image's shape, a share of its area from Beta(alpha, alpha), and a random pixel as its centre. It is
    cut off at the edges, so the returned share is counted from the pixels.
    """
    share_key, box_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.beta(share_key, alpha, alpha, (len(images), 1)))
    height, width = ((side * length).astype(jnp.int32) for length in images.shape[1:3])
    box = _box(box_key, images, height, width)
    return jnp.where(box, others, images), jnp.mean(box, axis=(1, 2, 3))


def mix(key: jax.Array, images: jax.Array, labels: jax.Array, config: Augment) -> dict[str, jax.Array]:
    """Return a batch: 'image' and 'label', and if mixup or cutmix is on also 'other' and 'share'.

    Each image [H, W, C], pixels 0..255, is mixed in float32 with the one before it in the batch (in random order);
    with both on, half of the images by either. Then 'label' int [N] has the larger share of the image, 'other' int [N]
    the smaller: 'share' float [N], at most a half. The key may be that of `augment`; the draws differ.
    """
    ways = [(way, alpha) for way, alpha in ((mixup, config.mixup), (cutmix, config.cutmix)) if not is_zero(alpha)]
    if not ways:
        return {"image": images, "label": labels}
    images, key = images.astype(jnp.float32), jax.random.fold_in(key, MIX_FOLD)
    mixed = [way(jax.random.fold_in(key, number), images, jnp.roll(images, 1, axis=0), alpha)
             for number, (way, alpha) in enumerate(ways)]
    images, share = mixed[0]
    if len(mixed) > 1:
        second = jax.random.bernoulli(jax.random.fold_in(key, len(ways)), 0.5, share.shape)
        images = jnp.where(second[:, None, None, None], mixed[1][0], images)
        share = jnp.where(second, mixed[1][1], share)
    others, less = jnp.roll(labels, 1), share <= 0.5
    return {"image": images, "label": jnp.where(less, labels, others), "other": jnp.where(less, others, labels),
            "share": jnp.where(less, share, 1 - share)}


def augment(key: jax.Array, images: jax.Array, config: Augment, *, cropped: bool = False,
            mirrored: jax.Array | None = None) -> jax.Array:
    """Return uint8 images [N, H, W, C] changed as the `augment` section says: pixels 0..255, float32 if values change.

    In this order: random resized crop (unless `cropped`: the stream has done it), crop, flip, RandAugment, rotation
    with scale and shift, brightness, contrast, saturation, hue (torchvision draws the order of these), lighting,
    cutout, erase; then `mix`. The images that are flipped are `mirrored`, bool [N], or drawn from the key where that is
    None. Raise UserError for a number of pixels above the image's longer side, which would leave black images.
    """
    for name in ("crop", "shift", "cutout", "test_shift"):
        pixels, side = getattr(config, name), max(images.shape[1:3])
        if not isinstance(pixels, jax.Array) and pixels > side:
            raise UserError(f"config.augment.{name}={pixels} is more than the {side} pixels of an image")
    subkey = functools.partial(jax.random.fold_in, key)  # not 0 to 2: `random_affine` splits the key into these
    if not (cropped or is_zero(config.resized_crop)):
        images = random_resized_crop(subkey(3), images, config.resized_crop)
    if config.crop:
        images = random_crop(subkey(10), images, config.crop, config.reflect)
    if mirrored is not None:
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    elif config.flip:
        images = random_flip(subkey(11), images)
    if config.randaugment:
        images = randaugment.rand_augment(subkey(13), images, config.randaugment, config.magnitude)
    if not (is_zero(config.rotate) and is_zero(config.zoom) and is_zero(config.shift)):
        images = random_affine(key, images.astype(jnp.float32), rotate=config.rotate, zoom=config.zoom,
                               shift=config.shift)
    for number, (name, change) in enumerate(color.CHANGES.items(), 4):
        if not is_zero(getattr(config, name)) and (images.shape[3] == 3 or name not in color.RGB_ONLY):
            images = change(subkey(number), images.astype(jnp.float32), getattr(config, name))
    if not is_zero(config.cutout):
        images = cutout(subkey(4 + len(color.CHANGES)), images, config.cutout)
    if not is_zero(config.erase):
        images = erase(subkey(12), images, config.erase)
    return images
