"""All networks, narrow and on small images, so that a comparison takes seconds; and a set that is also shallow."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from modern_cnn.models import MODELS, build
from tests.golden.weights import golden_images, golden_labels, golden_state
from tests.models.names import to_ours, to_torch
from tests.models.torch_nets import torch_net

CLASSES = 7


@dataclass(frozen=True)
class Case:
    """A network, options that ours and PyTorch's share, and the shape of its images: height, width, channels."""
    name: str
    image: tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    flattens: bool = False  # the flattened map's size depends on that of the images, which are square
    count: int = 3

    def __str__(self):
        few = {key: value for key, value in self.options.items() if key not in ("width", "hidden", "stage_features")}
        height, width, _ = self.image
        return "-".join([f"{self.name}-{height}x{width}", *(f"{key}={value}" for key, value in few.items())])

    @property
    def size(self):
        return {"image_size": self.image[0]} if self.flattens else {}

    def ours(self, **options):
        return build(self.name, CLASSES, **self.options | options)

    def twin(self):
        """Return PyTorch's network in float64, and its state: float32 numbers by the golden rule."""
        size = {"size": self.image[0]} if self.flattens else {}
        with torch.device("meta"):
            net = torch_net(self.name, CLASSES, self.image[2], **self.options, **size)
        state = golden_state({key: value.shape for key, value in net.state_dict().items()})
        net.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, assign=True)
        return net.requires_grad_().double(), state

    def variables(self, state=None):
        """Return our variables for a PyTorch state, by default the twin's."""
        return to_ours(self.name, self.twin()[1] if state is None else state, **self.options, **self.size)

    def torch_names(self, variables):
        return to_torch(self.name, variables, **self.options, **self.size)

    def images(self):
        """Return images [N, H, W, C] of float64."""
        height, width, channels = self.image
        return golden_images((self.count, channels, height, width)).astype(np.float64).transpose(0, 2, 3, 1)

    def labels(self):
        return golden_labels(self.count, CLASSES)


# Height and width differ, and go through even and odd sizes, so that neither can be taken for the other and a stride
# meets both. Hidden layers are few units wide: 4096 teach nothing more.
NARROW, HIDDEN = {"width": 0.125}, {"width": 0.125, "hidden": (24, 16)}
RGB, GRAY = (64, 48, 3), (64, 48, 1)
DEEP = {case.name: case for case in [
    *(Case(name, (28, 28, 1)) for name in ("mlp", "lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn")),
    Case("alexnet", (96, 80, 3), HIDDEN),
    Case("alexnet_d2l", (128, 128, 1), HIDDEN, flattens=True),
    Case("alexnet_2012", (99, 99, 3), HIDDEN, flattens=True),
    *(Case(f"vgg{depth}{norm}", RGB, HIDDEN) for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    Case("vgg11_d2l", (64, 64, 1), HIDDEN, flattens=True),
    Case("vgg13_cifar", (32, 32, 3), NARROW),
    Case("nin_d2l", (99, 75, 1), NARROW), Case("nin_cifar", (26, 32, 3), NARROW),
    Case("nin_imagenet", (75, 99, 3), NARROW),
    Case("googlenet", RGB, NARROW), Case("googlenet_d2l", GRAY, NARROW),
    Case("googlenet_2014", (128, 128, 3), NARROW, flattens=True, count=2),
    *(Case(f"{kind}resnet{depth}", RGB, NARROW) for kind in ("", "preact_") for depth in (18, 34, 50, 101, 152)),
    Case("plain18", RGB, NARROW), Case("plain34", RGB, NARROW), Case("resnext50_32x4d", RGB, NARROW),
    *(Case(f"resnet{depth}", (20, 18, 3), {"width": 0.5}) for depth in (20, 32, 44, 56, 110, 1202)),
    Case("resnet18_d2l", GRAY, NARROW),
    Case("resnet18_cifar", (24, 32, 3), NARROW), Case("resnet34_cifar", (24, 32, 3), NARROW),
    *(Case(f"densenet{depth}", RGB, NARROW) for depth in (121, 161, 169, 201)),
    Case("densenet_d2l", GRAY, NARROW), Case("densenet_bc_100_12", (18, 20, 3), {"width": 0.5}),
    Case("mobilenet_v1", RGB, NARROW), Case("regnet_x_3_2gf", RGB, NARROW), Case("regnetx32_d2l", GRAY, NARROW),
    Case("airbench94", (49, 49, 3), NARROW, flattens=True),
]}
assert set(DEEP) == set(MODELS), f"not in both: {set(DEEP) ^ set(MODELS)}; see docs/adding.md, section 5"


def case(name, **options):
    """Return the case of a name with further options."""
    deep = DEEP[name]
    return Case(name, deep.image, deep.options | options, deep.flattens, deep.count)


def slow(*values):
    """Return parameters of a test that only the slow run takes."""
    return pytest.param(*values, marks=pytest.mark.slow)


# Two stages, and of residual blocks one that projects and some that do not, say all that a deeper network does.
SHALLOW = {"stage_sizes": (2, 1), "stage_features": (64, 128)}
SMALL = [
    *map(case, ("mlp", "lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn", "alexnet", "alexnet_d2l", "alexnet_2012",
                "vgg11_bn", "vgg11_d2l", "vgg13_cifar", "nin_d2l", "nin_cifar", "googlenet", "googlenet_2014",
                "googlenet_d2l", "resnet18_d2l")),
    *(case(name, **SHALLOW) for name in ("resnet18", "resnet50", "plain18", "preact_resnet18", "preact_resnet50",
                                         "resnet18_cifar")),
    case("resnet20", stage_sizes=(2, 1, 1)),
    case("densenet121", block_sizes=(2, 3)), case("densenet_d2l", block_sizes=(3, 2)),
    case("densenet_bc_100_12", block_sizes=(2, 1, 2)), case("resnext50_32x4d", groups=4, base_width=16, **SHALLOW),
    case("mobilenet_v1", **SHALLOW), case("regnet_x_3_2gf", stage_sizes=(2, 1), stage_features=(96, 192)),
    case("regnetx32_d2l", stage_sizes=(2, 1)), case("airbench94"),
]
