"""How kernels and biases are drawn, by names that configs use."""
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn.errors import lookup

Initializer = Callable[..., jax.Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """Return U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's biases of dense and convolutional layers."""
    bound = fan_in ** -0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _he(fan: Literal["fan_in", "fan_out"]) -> Initializer:
    """Return N(0, 2 / fan), not truncated (He et al. 2015, "Delving deep into rectifiers", section 2.2)."""
    return nn.initializers.variance_scaling(2, fan, "normal")


TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's kernels of both kinds of layer


def _dirac(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, groups: int = 1) -> jax.Array:
    """Return PyTorch's kernel [kh, kw, I, O], whose first filters copy a channel each (Jordan 2024, section 3.3).

    In each group of O // groups filters they are the first min(I, O // groups).
    """
    *window, inside, outside = *shape[:3], shape[3] // groups
    copied = min(inside, outside)
    copies = jnp.zeros((*window, inside, groups, copied), dtype)
    copies = copies.at[window[0] // 2, window[1] // 2].set(jnp.eye(inside, copied, dtype=dtype)[:, None])
    drawn = TORCH(key, shape, dtype).reshape(*window, inside, groups, outside)
    return jnp.concatenate([copies, drawn[..., copied:]], axis=4).reshape(shape)


def _identity(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, groups: int = 1) -> jax.Array:
    """Return a kernel [kh, kw, C // groups, C] that copies a map padded to its size; He's (fan out) for other sizes."""
    return _dirac(key, shape, dtype, groups) if shape[2] * groups == shape[3] else _he("fan_out")(key, shape, dtype)


_XAVIER, _NORMAL, _ZEROS = nn.initializers.xavier_uniform(), nn.initializers.normal(0.01), nn.initializers.zeros

# name -> kind of layer -> (kernel initialiser, bias initialiser); a bias of None is `fan_in_uniform` of its own layer.
INITIALIZERS: dict[str, dict[str, tuple[Initializer, Initializer | None]]] = {
    "xavier_uniform": {"conv": (_XAVIER, None), "dense": (_XAVIER, None)},  # the textbook: biases stay PyTorch's
    "keras": {"conv": (_XAVIER, _ZEROS), "dense": (_XAVIER, _ZEROS)},
    "torch": {"conv": (TORCH, None), "dense": (TORCH, None)},
    "normal": {"conv": (_NORMAL, _ZEROS), "dense": (_NORMAL, _ZEROS)},  # N(0, 0.01^2): Krizhevsky et al. 2012
    "vgg": {"conv": (_he("fan_out"), _ZEROS), "dense": (_NORMAL, _ZEROS)},  # this and the next three: torchvision's
    "googlenet": {"conv": (_NORMAL, None), "dense": (_NORMAL, None)},
    "resnet": {"conv": (_he("fan_out"), None), "dense": (TORCH, None)},
    "densenet": {"conv": (_he("fan_in"), None), "dense": (TORCH, _ZEROS)},
    "identity": {"conv": (_identity, _ZEROS), "dense": (TORCH, _ZEROS)},
    "dirac": {"conv": (_dirac, None), "dense": (TORCH, None)},
}


def initializers(name: str, layer: Literal["conv", "dense"]) -> dict[str, Any]:
    """Return `kernel_init` and `bias_init` of a row of INITIALIZERS. Raise UserError if the name is unknown."""
    kernel_init, bias_init = lookup(INITIALIZERS, name, "initializer")[layer]
    return {"kernel_init": kernel_init, "bias_init": bias_init}


def grouped(kernel_init: Initializer, groups: int) -> Initializer:
    """Return an initialiser of the kernels of a grouped convolution: those that copy channels must know its groups."""
    return partial(kernel_init, groups=groups) if kernel_init in (_dirac, _identity) else kernel_init


def depthwise_kernel(kernel_init: Initializer) -> Initializer:
    """Return an initialiser of kernels [kh, kw, C, M] that draws the equal grouped kernel [kh, kw, 1, C * M]."""
    return lambda key, shape, dtype=jnp.float32: grouped(kernel_init, shape[2])(
        key, (*shape[:2], 1, shape[2] * shape[3]), dtype).reshape(shape)
