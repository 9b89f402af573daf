"""Every network by name: `build('lenet')`. A new network is one file here, one line of MODELS and one config."""
import inspect
from collections.abc import Callable
from functools import partial

import flax.linen as nn

from modern_cnn.errors import UserError, did_you_mean
from modern_cnn.models.lenet import LeNet, LeNetReLU
from modern_cnn.models.mlp import MLP

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "lenet_bn": partial(LeNet, padding=0, norm="batch"),
    "lenet_relu": LeNetReLU,
    "lenet_relu_bn": partial(LeNetReLU, norm="batch"),
}


def build(name: str, num_classes: int = 10, **options) -> nn.Module:
    """The named network, without parameters yet.

    Args:
      name: a key of MODELS.
      num_classes: length of the logits.
      **options: fields of the network's class, e.g. `norm='batch'`; None leaves the network's own default.
    Returns:
      A module: `init(key, images, train=False)`, `apply(variables, images, train=False) -> [N, num_classes]`.
    Raises:
      UserError: an unknown name or option, with the closest that exists.
    """
    if name not in MODELS:
        raise UserError(f"there is no network {name!r}{did_you_mean(name, MODELS)}")
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in options.items() if value is not None}
    known = set(inspect.signature(MODELS[name]).parameters) - {"parent", "name", "num_classes"}
    for option in options:
        if option not in known:
            raise UserError(f"the network {name!r} has no option {option!r}{did_you_mean(option, known)}")
    return MODELS[name](num_classes=num_classes, **options)
