"""The features before the head are what the last layer of PyTorch's network takes in."""
import dataclasses

import jax
import numpy as np
import pytest
import torch

from modern_cnn.training import finetune
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import CLASSES, SMALL, slow
from tests.models.compare import close

CASES = {case.name: case for case in SMALL}
CASES["airbench94"] = dataclasses.replace(CASES["airbench94"], image=(32, 32, 3))  # one pixel: rows in either order


@pytest.mark.parametrize("name", ["lenet_bn", "alexnet", "nin_cifar", "nin_d2l", "googlenet", "resnet18", slow("mlp"),
                                  slow("vgg11_bn"), slow("googlenet_2014"), slow("preact_resnet18"),
                                  slow("densenet121"), slow("airbench94"), slow("mobilenet_v1"),
                                  slow("regnet_x_3_2gf")])
def test_features_are_the_input_of_the_last_layer(name):
    case = CASES[name]
    net, state = case.twin()
    heads = [module for module in net.eval().modules()
             if CLASSES in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))]
    inputs = []
    for head in heads:
        head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        net(torch.tensor(case.images().transpose(0, 3, 1, 2)))
    taken = inputs[0]
    module = case.ours()
    found = jax.jit(lambda variables, images: finetune.features(module, variables, images),
                    compiler_options=FAST_COMPILE)(case.variables(state), case.images().astype(np.float32))
    assert found.dtype == np.float32
    assert found.ndim == 2
    close(found, taken.mean((2, 3)) if taken.ndim == 4 else taken, 1e-4)
