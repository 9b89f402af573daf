"""The PyTorch networks that ours are compared with have the published names, shapes and counts."""
import json
import zlib
from pathlib import Path

import pytest
import torch

from modern_cnn.models import INPUTS, MODELS
from tests.models.names import published_name
from tests.models.torch_nets import TORCH_NETS, torch_net

NETWORKS = json.loads((Path(__file__).parents[1] / "golden" / "networks.json").read_text())
# networks of torchvision and of the textbook under other options: parameters, tensors, checksum of names and shapes
VARIANTS = [("googlenet", {"aux_logits": False}, 6_624_904, [344, 2_008_789_634]),
            ("vgg11_d2l", {"width": 0.25}, 43_093_322, [22, 1_750_387_717])]


def without_memory(name, **options):
    """Return the network as published, on the meta device: parameters have shapes but no values."""
    (_, _, channels), classes = INPUTS[name]
    with torch.device("meta"):
        return torch_net(name, classes, channels, **options)


def names_and_shapes(name, net):
    """Return [number of tensors, CRC-32 of the sorted lines 'name [shape]'] of a state dict."""
    lines = sorted(f"{published_name(name, key)} {list(value.shape)}" for key, value in net.state_dict().items())
    return [len(lines), zlib.crc32("\n".join(lines).encode())]


def test_every_network_has_a_torch_twin():
    assert list(NETWORKS) == list(MODELS)
    assert set(TORCH_NETS) == set(MODELS)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "torch" in NETWORKS[name]])
def test_names_and_shapes_are_those_of_the_published_state_dict(name):
    assert names_and_shapes(name, without_memory(name)) == NETWORKS[name]["torch"]


@pytest.mark.parametrize(("name", "options", "parameters", "tensors"), VARIANTS, ids=str)
def test_variants_are_the_published_ones(name, options, parameters, tensors):
    net = without_memory(name, **options)
    assert names_and_shapes(name, net) == tensors
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_the_published_ones(name):
    net = without_memory(name)
    assert sum(parameter.numel() for parameter in net.parameters()) == NETWORKS[name]["parameters"]
    running = [tensor.numel() for key, tensor in net.named_buffers() if not key.endswith("num_batches_tracked")]
    assert sum(running) == NETWORKS[name]["batch_stats"]
