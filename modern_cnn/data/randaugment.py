"""RandAugment inside the compiled step (Cubuk et al. 2019, "RandAugment: practical automated data augmentation").

Operations and strengths are torchvision's `RandAugment` on Pillow images: nearest pixels, black outside, 31 strengths.
Each of the 14 operations is one of three kinds: it moves pixels (a matrix), it moves values away from a base or
towards it (a factor), or it replaces values (a table for each channel). All images go through all three kinds, and all
but the kind that was drawn change nothing: so a batch is one program without branches.
"""
import jax
import jax.numpy as jnp

STRENGTHS = 30  # the greatest magnitude
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *MOVES, *BLENDS, *TABLES)


def rand_augment(key: jax.Array, images: jax.Array, count: int, magnitude: float | jax.Array) -> jax.Array:
    """Return images [N, H, W, C], each after `count` random operations of OPERATIONS: whole numbers 0..255, float32.

    `magnitude` is from 0, where most change nothing, to STRENGTHS. Grey images have no colour to change.
    """
    images = jnp.floor(images.astype(jnp.float32))
    for each in jax.random.split(key, count):
        which_key, sign_key = jax.random.split(each)
        which = jax.random.randint(which_key, (len(images),), 0, len(OPERATIONS))
        strength = magnitude / STRENGTHS * jax.random.rademacher(sign_key, (len(images),), jnp.float32)
        images = jax.vmap(apply)(images, which, strength)
    return images


def apply(image: jax.Array, which: int | jax.Array, strength: float | jax.Array) -> jax.Array:
    """Return an image [H, W, C], whole numbers 0..255 in float32, after the operation OPERATIONS[which].

    `strength` is from -1 to 1. Its sign is the direction of moves and blends; the others have none.
    """
    def by_name(*values):  # the value of the operation's own name, or the last
        *named, otherwise = values
        return jnp.select([which == OPERATIONS.index(name) for name, _ in named], [value for _, value in named],
                          otherwise)

    image = _move(image, by_name(*_matrices(strength, *image.shape[:2]), jnp.eye(2, 3)))
    image = _blend(image, by_name(*_bases(image), image), jnp.where(_is_one_of(which, BLENDS), 1 + 0.9 * strength, 1))
    table = by_name(*_tables(image, abs(strength)), jnp.arange(256)[:, None])  # [256, C or 1]
    table = jnp.broadcast_to(table, (256, image.shape[2]))
    return jnp.take_along_axis(table, image.reshape(-1, image.shape[2]).astype(jnp.int32), axis=0).reshape(
        image.shape).astype(jnp.float32)


def _is_one_of(which, names: tuple[str, ...]) -> jax.Array:
    return jnp.isin(which, jnp.array([OPERATIONS.index(name) for name in names]))


def _matrices(strength, height: int, width: int):
    """Return (name, [2, 3]) of each move: where (x, y, 1) of a pixel's centre in the result lies in the image."""
    angle = jnp.deg2rad(30 * strength)
    cos, sin, centre_x, centre_y = jnp.cos(angle), jnp.sin(angle), width / 2, height / 2
    shear, pixels = 0.3 * strength, 150 / 331 * strength
    return [(name, jnp.array(rows, jnp.float32)) for name, rows in (
        ("shear_x", ((1, shear, 0), (0, 1, 0))), ("shear_y", ((1, 0, 0), (shear, 1, 0))),
        ("translate_x", ((1, 0, -jnp.trunc(pixels * width)), (0, 1, 0))),
        ("translate_y", ((1, 0, 0), (0, 1, -jnp.trunc(pixels * height)))),
        ("rotate", ((cos, -sin, centre_x - cos * centre_x + sin * centre_y),
                    (sin, cos, centre_y - sin * centre_x - cos * centre_y))))]


def _move(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Return the image with the pixels that `matrix` names; black outside."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    seen_x, seen_y = (jnp.floor(a * x + b * y + c).astype(jnp.int32) for a, b, c in matrix)
    inside = (seen_x >= 0) & (seen_x < width) & (seen_y >= 0) & (seen_y < height)
    return jnp.where(inside[..., None], image[seen_y, seen_x], 0)


def _bases(image: jax.Array):
    """Return (name, image) of what each blend moves values away from: black, grey, mean grey, the smoothed image."""
    if image.shape[2] == 3:  # in whole numbers, as Pillow
        weighted = image.astype(jnp.int32) * jnp.array([19595, 38470, 7471])
        grey = ((weighted.sum(axis=2, keepdims=True) + 0x8000) >> 16).astype(jnp.float32)
    else:
        grey = image
    mean = jnp.floor(grey.mean() + 0.5)
    inner = sum(image[1 + y:image.shape[0] - 1 + y, 1 + x:image.shape[1] - 1 + x] for y in (-1, 0, 1)
                for x in (-1, 0, 1)) + 4 * image[1:-1, 1:-1]
    smooth = image.at[1:-1, 1:-1].set(jnp.floor(inner / 13 + 0.5))
    return [(name, jnp.broadcast_to(base, image.shape)) for name, base in zip(
        BLENDS, (0.0, grey, mean, smooth), strict=True)]


def _blend(image: jax.Array, base: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(base + factor * (image - base)), 0, 255)


def _tables(image: jax.Array, strength):
    """Return (name, new values [256, C or 1] of the old ones) of each operation that looks at nothing else."""
    values = jnp.arange(256)[:, None]
    removed = jnp.round(STRENGTHS * strength / 7.5).astype(jnp.int32)  # bits: up to four of eight
    solarized = jnp.where(values < 255 * (1 - strength), values, 255 - values)
    channels = jnp.arange(image.shape[2])
    counts = jnp.zeros((256, image.shape[2]), jnp.int32).at[image.astype(jnp.int32), channels].add(1)
    seen = counts > 0
    low, high = jnp.argmax(seen, axis=0), 255 - jnp.argmax(seen[::-1], axis=0)
    stretched = jnp.clip((values - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    step = (counts.sum(axis=0) - jnp.take_along_axis(counts, high[None], axis=0)[0]) // 255
    before = jnp.cumsum(counts, axis=0) - counts
    spread = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return [("posterize", values >> removed << removed), ("solarize", solarized),
            ("autocontrast", jnp.where(high > low, stretched, values)),
            ("equalize", jnp.where(step > 0, spread, values))]
