"""Changes of colour, by each image's own random amount, inside the compiled step: pixels 0..255 float32 [N, H, W, C].

Brightness, contrast, saturation and hue are torchvision's ColorJitter; an `amount` of 0 changes nothing.
"""
import jax
import jax.numpy as jnp

GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)
# The deviations of ImageNet's pixels along their principal components, and those as columns; pixels in [0, 1].
LIGHTS = (0.2175, 0.0188, 0.0045)
DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def _grey(images: jax.Array) -> jax.Array:
    """[N, H, W, 1]; images of other than three channels are taken as grey already."""
    return jnp.sum(images * jnp.array(GREY), axis=3, keepdims=True) if images.shape[3] == 3 else images


def _blend(key: jax.Array, images: jax.Array, base: jax.Array | float, amount: float | jax.Array) -> jax.Array:
    """base + factor * (images - base), cut off at black and white; factors from max(0, 1 - amount) to 1 + amount."""
    factor = jax.random.uniform(key, (len(images), 1, 1, 1), minval=jnp.maximum(0, 1 - amount), maxval=1 + amount)
    return jnp.clip(factor * images + (1 - factor) * base, 0, 255)


def brightness(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Scales pixels by 1 - amount to 1 + amount."""
    return _blend(key, images, 0.0, amount)


def contrast(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Scales the distance from the image's mean grey."""
    return _blend(key, images, jnp.mean(_grey(images), axis=(1, 2, 3), keepdims=True), amount)


def saturation(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Scales each pixel's distance from its own grey."""
    return _blend(key, images, _grey(images), amount)


def hue(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Turns the hue (of HSV) of images in colour by up to `amount` of the circle to either side, at most 0.5."""
    turn = jax.random.uniform(key, (len(images), 1, 1, 1), minval=-amount, maxval=amount)
    red, green, blue = jnp.split(images, 3, axis=3)
    high = jnp.max(images, axis=3, keepdims=True)
    chroma = high - jnp.min(images, axis=3, keepdims=True)
    divisor = jnp.where(chroma == 0, 1, chroma)  # grey has no hue
    sixths = jnp.where(high == red, (green - blue) / divisor,
                       jnp.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor))
    away = (jnp.array([5.0, 3.0, 1.0]) + sixths + 6 * turn) % 6  # of each channel from where it is least, in sixths
    return high - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def lighting(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Adds to all pixels of an image the same random multiples, of deviation `amount`, of ImageNet's main colours.

    "Fancy PCA" (Krizhevsky et al. 2012, section 4.1, where `amount` is 0.1); here black and white are not left.
    """
    multiples = amount * jax.random.normal(key, (len(images), 1, 1, 3)) * jnp.array(LIGHTS)
    shifts = jnp.sum(multiples[..., None, :] * jnp.array(DIRECTIONS), axis=-1)  # [N, 1, 1, 3]
    return jnp.clip(images + 255 * shifts, 0, 255)


ALL = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue, "lighting": lighting}
OF_COLOR = ("saturation", "hue", "lighting")  # these say nothing about grey images, and leave them as they are
