"""Every network by name: `build('lenet')`. A new network is one file here, one word of FAMILIES and one config."""
import inspect
from collections.abc import Callable
from functools import partial

import flax.linen as nn

from modern_cnn.errors import UserError, did_you_mean, lookup
from modern_cnn.models import alexnet, densenet, googlenet, lenet, mlp, nin, resnet, vgg
from modern_cnn.models.base import Variant

FAMILIES = (mlp, lenet, alexnet, vgg, nin, googlenet, resnet, densenet)
VARIANTS: dict[str, Variant] = {name: variant for family in FAMILIES for name, variant in family.VARIANTS.items()}
MODELS: dict[str, Callable[..., nn.Module]] = {name: partial(v.network, **v.options) for name, v in VARIANTS.items()}
# The image shape (H, W, C) and the number of classes that each network was published for.
INPUTS = {name: (variant.image_shape, variant.num_classes) for name, variant in VARIANTS.items()}


def build(name: str, num_classes: int = 10, **options) -> nn.Module:
    """Return the named network, which has no parameters yet, with `num_classes` logits.

    `options` are fields of the network's class, e.g. `norm='batch'`; None keeps the named network's own value. Raise
    UserError if the name or an option is unknown; the message has the closest that exists. The module has
    `init(key, images, train=False)` and `apply(variables, images, train=False) -> [N, num_classes]`.
    """
    model = lookup(MODELS, name, "network")
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in options.items() if value is not None}
    known = set(inspect.signature(model).parameters) - {"parent", "name", "num_classes"}
    for option in options:
        if option not in known:
            raise UserError(f"the network {name!r} has no option {option!r}{did_you_mean(option, known)}")
    return model(num_classes=num_classes, **options)
