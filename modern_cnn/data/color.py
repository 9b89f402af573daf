"""Random changes of colour inside the compiled step: float32 [N, H, W, C], pixels 0..255, an amount for each image.

Brightness, contrast, saturation and hue are torchvision's ColorJitter; an `amount` of 0 changes nothing.
"""
import jax
import jax.numpy as jnp

GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)
# Principal components of ImageNet's pixels in [0, 1]: standard deviations along them, and the components as columns.
# The paper does not print them; these are from the Torch ResNets (fb.resnet.torch), and in general use.
LIGHTING_STD = (0.2175, 0.0188, 0.0045)
LIGHTING_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def _to_grey(images: jax.Array) -> jax.Array:
    """Return [N, H, W, 1]; images without three channels are grey already."""
    return jnp.sum(images * jnp.array(GREY), axis=3, keepdims=True) if images.shape[3] == 3 else images


def _blend(key: jax.Array, images: jax.Array, base: jax.Array | float, amount: float | jax.Array) -> jax.Array:
    """Return base + factor * (images - base), clipped to 0..255; factors from max(0, 1 - amount) to 1 + amount."""
    factor = jax.random.uniform(key, (len(images), 1, 1, 1), minval=jnp.maximum(0, 1 - amount), maxval=1 + amount)
    return jnp.clip(factor * images + (1 - factor) * base, 0, 255)


def brightness(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Return images with their pixels scaled by 1 - amount to 1 + amount."""
    return _blend(key, images, 0.0, amount)


def contrast(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Return images with the distance from their mean grey scaled."""
    return _blend(key, images, jnp.mean(_to_grey(images), axis=(1, 2, 3), keepdims=True), amount)


def saturation(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Return images with the distance of each pixel from its own grey scaled."""
    return _blend(key, images, _to_grey(images), amount)


def hue(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Return RGB images with their hue (of HSV) turned by up to `amount`, at most 0.5, of the circle to either side."""
    turn = jax.random.uniform(key, (len(images), 1, 1, 1), minval=-amount, maxval=amount)
    red, green, blue = jnp.split(images, 3, axis=3)
    high = jnp.max(images, axis=3, keepdims=True)
    chroma = high - jnp.min(images, axis=3, keepdims=True)
    divisor = jnp.where(chroma == 0, 1, chroma)  # grey has no hue
    # Compare the channels with each other: the compiler may compute `high` again, and then it equals none of them.
    sixths = jnp.where((red >= green) & (red >= blue), (green - blue) / divisor,
                       jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor))
    away = (jnp.array([5.0, 3.0, 1.0]) + sixths + 6 * turn) % 6  # from the hue where the channel is lowest, in sixths
    return high - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def lighting(key: jax.Array, images: jax.Array, amount: float | jax.Array) -> jax.Array:
    """Return RGB images, each with random multiples of ImageNet's principal colours added to all of its pixels.

    "Fancy PCA" (Krizhevsky et al. 2012, section 4.1), but clipped; `amount` is the standard deviation, there 0.1.
    """
    multiples = amount * jax.random.normal(key, (len(images), 1, 1, 3)) * jnp.array(LIGHTING_STD)
    shifts = jnp.sum(multiples[..., None, :] * jnp.array(LIGHTING_COMPONENTS), axis=-1)  # [N, 1, 1, 3]
    return jnp.clip(images + 255 * shifts, 0, 255)


CHANGES = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue, "lighting": lighting}
RGB_ONLY = ("saturation", "hue", "lighting")  # grey images stay as they are
