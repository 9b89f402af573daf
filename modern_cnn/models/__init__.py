"""Every network by name: `build('lenet')`. A new network is one file here, one word of FAMILIES and one config."""
import inspect
import math
import typing
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn.errors import UserError, did_you_mean, lookup
from modern_cnn.models import airbench, alexnet, densenet, googlenet, lenet, mlp, mobilenet, nin, regnet, resnet, vgg
from modern_cnn.models.base import LARGEST, Variant

FAMILIES = (mlp, lenet, alexnet, vgg, nin, googlenet, resnet, densenet, mobilenet, regnet, airbench)
VARIANTS: dict[str, Variant] = {name: variant for family in FAMILIES for name, variant in family.VARIANTS.items()}
MODELS: dict[str, Callable[..., nn.Module]] = {name: partial(v.network, **v.options) for name, v in VARIANTS.items()}
# The image shape (H, W, C) and the number of classes that each network was published for.
INPUTS = {name: (variant.image_shape, variant.num_classes) for name, variant in VARIANTS.items()}


def check_classes(num_classes: int, what: str) -> None:
    """Raise UserError for a network, `what` in the message, with a single output."""
    if num_classes < 2:
        raise UserError(f"{what} has a single output, and softmax makes 100 % of it for every image: at least two are "
                        "needed (a sigmoid is the softmax of two outputs, of which the first is always 0: put a row of "
                        "zeros before the row of the last layer's weight and bias)")


def build(name: str, num_classes: int = 10, **options) -> nn.Module:
    """Return the named network, which has no parameters yet, with `num_classes` logits.

    `options` are fields of the network's class, e.g. `norm='batch'`; None keeps the named network's own value. Raise
    UserError if the name or an option is unknown; the message has the closest that exists. The module has
    `init(key, images, train=False)` and `apply(variables, images, train=False) -> [N, num_classes]`.
    """
    model = lookup(MODELS, name, "network")
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in options.items() if value is not None}
    parameters, limits = inspect.signature(model).parameters, getattr(getattr(model, "func", model), "limits", {})
    known = set(parameters) - {"parent", "name", "num_classes"}
    for option, value in options.items():
        if option not in known:
            raise UserError(f"the network {name!r} has no option {option!r}{did_you_mean(option, known)}")
        if wanted := _wanted(parameters[option], value, limits.get(option)):
            raise UserError(f"the option {option}={repr(value)[:100]} of the network {name!r} must be {wanted}")
    return model(num_classes=num_classes, **options)


def _wanted(option: inspect.Parameter, value: Any, limits: tuple[float, float] | None) -> str:
    """Return what an option must be by its annotation and its limits, or '' if `value`, not None, is that.

    Traced numbers are.
    """
    kind: Any = option.annotation
    kinds = [kind, *typing.get_args(kind)]  # float | None is two
    if jnp.dtype in kinds:
        allowed = ("bfloat16", "float16", "float32", *["float64"] * jax.config.values["jax_enable_x64"])
        try:
            return "" if jnp.dtype(value).name in allowed else f"one of {', '.join(allowed)}"
        except TypeError:
            return f"one of {', '.join(allowed)}"
    if bool in kinds:
        return "" if isinstance(value, bool) else "True or False"
    if kind is str or kind == str | None:
        return "" if isinstance(value, str) else "a name"
    if float in kinds:
        low, high = limits or (0, math.nextafter(1, 0) if option.name.endswith("dropout_rate") else LARGEST)
        right = isinstance(value, jax.Array) or (_is_number(value, Real) and low <= value <= high)
        return "" if right else f"a number of at least {low} and {'below 1' if high < 1 else f'at most {high}'}"
    if kind is int:
        low, high = limits or (1, LARGEST)
        right = _is_number(value, Integral) and low <= value <= high
        return "" if right else f"a whole number from {low} to {high:,}"
    if Sequence[int] in kinds:
        right = isinstance(value, tuple) and all(_is_number(part, Integral) and 1 <= part <= LARGEST for part in value)
        return "" if right and (value or option.name == "hidden") else f"whole numbers from 1 to {LARGEST:,}: (2, 2)"
    return "" if callable(value) or typing.get_origin(kind) is not Callable else "a function"


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
