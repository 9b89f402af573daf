"""Every network by name: `build('lenet')`. A new network is one file here, one line of MODELS and one config."""
import inspect
from collections.abc import Callable
from functools import partial

import flax.linen as nn

from modern_cnn.errors import UserError, did_you_mean, lookup
from modern_cnn.models import alexnet, densenet, googlenet, nin, resnet, vgg
from modern_cnn.models.lenet import LeNet, LeNetReLU
from modern_cnn.models.mlp import MLP

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "lenet_bn": partial(LeNet, padding=0, norm="batch"),
    "lenet_relu": LeNetReLU,
    "lenet_relu_bn": partial(LeNetReLU, norm="batch"),
    **{name: partial(alexnet.AlexNet, **fields) for name, fields in alexnet.VARIANTS.items()},
    **{name: partial(vgg.VGG, **fields) for name, fields in vgg.VARIANTS.items()},
    **{name: partial(nin.NiN, **fields) for name, fields in nin.VARIANTS.items()},
    **{name: partial(googlenet.GoogLeNet, **fields) for name, fields in googlenet.VARIANTS.items()},
    **{name: partial(resnet.ResNet, **fields) for name, fields in resnet.VARIANTS.items()},
    **{name: partial(densenet.DenseNet, **fields) for name, fields in densenet.VARIANTS.items()},
}

# What each network was published for: image shape (H, W, C) and number of classes. Most take other sizes too.
INPUTS: dict[str, tuple[tuple[int, int, int], int]] = {
    **dict.fromkeys(MODELS, ((224, 224, 3), 1000)),
    **dict.fromkeys(("mlp", "lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn"), ((28, 28, 1), 10)),
    **dict.fromkeys(("alexnet_d2l", "vgg11_d2l", "nin_d2l"), ((224, 224, 1), 10)),
    **dict.fromkeys(("googlenet_d2l", "resnet18_d2l", "densenet_d2l"), ((96, 96, 1), 10)),
    **dict.fromkeys(("vgg13_cifar", "nin_cifar", "resnet18_cifar", "resnet34_cifar", *resnet.CIFAR,
                     "densenet_bc_100_12"), ((32, 32, 3), 10)),
    "alexnet_2012": ((227, 227, 3), 1000),
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
    model = lookup(MODELS, name, "network")
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in options.items() if value is not None}
    known = set(inspect.signature(model).parameters) - {"parent", "name", "num_classes"}
    for option in options:
        if option not in known:
            raise UserError(f"the network {name!r} has no option {option!r}{did_you_mean(option, known)}")
    return model(num_classes=num_classes, **options)
