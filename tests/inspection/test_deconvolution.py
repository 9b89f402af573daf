"""The way back to the pixels, against closed forms, NumPy, and a deconvolutional network in PyTorch."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as T

from modern_cnn import functional as F
from modern_cnn import models, weights
from modern_cnn.errors import UserError
from modern_cnn.inspection import deconvolution as deconv
from modern_cnn.inspection import features
from modern_cnn.layers import Conv
from tests.functional.oracle import FAST_COMPILE, close, nhwc, normal
from tests.models.cases import slow
from tests.models.torch_nets import torch_net


class Net(nn.Module):
    """A network of one sown function of the images, which are flattened as logits."""
    body: object

    @nn.compact
    def __call__(self, x, *, train=False):
        x = self.body(x)
        self.sow("intermediates", "stage1", x)
        return x.reshape(len(x), -1)


PROJECT = jax.jit(deconv.project, static_argnums=(0, 3), compiler_options=FAST_COMPILE)


def send_back(body, images, signal):
    with jax.enable_x64(True):
        net = Net(body)
        shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images)).get("params", {})
        variables = {"params": jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)}
        return variables, np.asarray(PROJECT(net, variables, images, "stage1", signal))


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_one_convolution_is_sent_back_by_its_transpose(stride, padding):
    """Closed form: the value times its unit's filter, where the filter was applied; biases have no part in it."""
    images, place, unit, value = normal(1, 11, 9, 3), (2, 1), 4, 1.7
    signal = np.zeros((1, (8 + 2 * padding) // stride + 1, (6 + 2 * padding) // stride + 1, 5))
    signal[0, *place, unit] = value
    variables, back = send_back(lambda x: Conv(5, 3, strides=stride, padding=padding, name="conv")(x), images, signal)
    kernel = variables["params"]["conv"]["kernel"]
    assert np.abs(variables["params"]["conv"]["bias"]).min() > 0
    wanted = np.zeros((11 + 2 * padding + stride, 9 + 2 * padding + stride, 3))
    top, left = place[0] * stride, place[1] * stride
    wanted[top:top + 3, left:left + 3] = value * kernel[..., unit]
    close(back[0], wanted[padding:padding + 11, padding:padding + 9])


def test_a_whole_map_is_sent_back_as_by_pytorch():
    images = normal(2, 12, 10, 3)
    signal = normal(2, 6, 5, 7)
    variables, back = send_back(lambda x: Conv(7, 3, strides=2, padding=1, name="conv")(x), images, signal)
    kernel = torch.tensor(variables["params"]["conv"]["kernel"].transpose(3, 2, 0, 1))
    close(back, nhwc(T.conv_transpose2d(torch.tensor(signal.transpose(0, 3, 1, 2)), kernel, stride=2, padding=1,
                                        output_padding=1)))


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 3)])
def test_unpooling_returns_each_value_to_its_switch(window, stride):
    images = normal(2, 9, 8, 3)
    maps = np.asarray(F.max_pool(jnp.asarray(images), window, stride))
    signal, wanted = normal(*maps.shape, seed=1), np.zeros(images.shape)
    for n, i, j, c in np.ndindex(*maps.shape):
        seen = images[n, i * stride:i * stride + window, j * stride:j * stride + window, c]
        row, column = np.unravel_index(seen.argmax(), seen.shape)
        wanted[n, i * stride + row, j * stride + column, c] += signal[n, i, j, c]
    _, back = send_back(lambda x: F.max_pool(x, window, stride), images, signal)
    close(back, wanted)


@pytest.mark.parametrize("function", [nn.relu, nn.sigmoid])
def test_what_rectifies_the_maps_rectifies_the_way_back_and_does_nothing_else(function):
    """The signs of the forward values do not matter; a gradient would stop or shrink where they were small."""
    images, signal = normal(1, 4, 4, 2), normal(1, 4, 4, 2, seed=1)
    close(send_back(function, images, signal)[1], np.maximum(signal, 0))


def torch_way_back(net, images, unit, stage):
    """Return (the strongest activation of a unit in a stage, with zeros around it; the same sent back to the pixels).

    Stages end with a pooling.
    """
    x, stack, poolings = torch.tensor(images.transpose(0, 3, 1, 2)), [], 0
    for layer in net.features:
        layers = list(layer) if isinstance(layer, torch.nn.Sequential) else [layer]
        for each in layers:
            switches = None
            size = x.shape
            if isinstance(each, torch.nn.MaxPool2d):
                x, switches = T.max_pool2d(x, each.kernel_size, each.stride, return_indices=True)
                poolings += 1
            else:
                x = each(x)
            stack.append((each, size, switches))
        if poolings == stage:
            break
    flat = x[:, unit].flatten(1)
    signal = torch.zeros_like(x)
    signal[:, unit] = (flat * T.one_hot(flat.argmax(1), flat.shape[1])).reshape(x[:, unit].shape)
    start = signal
    for each, size, switches in reversed(stack):
        if switches is not None:
            empty = torch.zeros(*size[:2], size[2] * size[3], dtype=torch.float64)
            signal = empty.scatter_add(2, switches.flatten(2), signal.flatten(2)).reshape(size)
        elif isinstance(each, torch.nn.ReLU):
            signal = signal.relu()
        elif isinstance(each, torch.nn.BatchNorm2d):
            signal = signal * (each.weight / (each.running_var + each.eps).sqrt())[:, None, None]
        elif isinstance(each, torch.nn.Conv2d):
            spare = [n - ((m - 1) * s + k - 2 * p) for n, m, s, k, p in zip(
                size[2:], signal.shape[2:], each.stride, each.kernel_size, each.padding, strict=True)]
            signal = T.conv_transpose2d(signal, each.weight, None, each.stride, each.padding, spare, each.groups)
        else:
            assert isinstance(each, torch.nn.LocalResponseNorm)  # left out on the way back
    return nhwc(start), nhwc(signal)


NETWORKS = {
    "alexnet": ("alexnet", {"hidden": (4, 4), "width": 0.1}, 80),
    "alexnet_2012": ("alexnet_2012", {"hidden": (4, 4), "width": 0.1}, 83),
    "vgg11_bn": ("vgg11_bn", {"hidden": (4, 4), "width": 0.05}, 32),
}


@pytest.mark.parametrize(("name", "options", "size"), [
    NETWORKS["alexnet_2012"], slow(*NETWORKS["alexnet"]), slow(*NETWORKS["vgg11_bn"])])
@torch.no_grad()
def test_trained_networks_send_back_as_the_same_layers_in_pytorch_do(name, options, size):
    torch.manual_seed(0)
    flattens = {"size": size} if name == "alexnet_2012" else {}  # the map, without pooling it to a size of its own
    twin = torch_net(name, **options, **flattens).eval()
    for leaf in [*twin.parameters(), *twin.buffers()]:
        if leaf.ndim == 1:  # biases and statistics that matter
            leaf.uniform_(0.5, 1.5)
    twin = twin.double()
    state = {key: value.numpy() for key, value in twin.state_dict().items()}
    net, images = models.build(name, **options), normal(2, size, size, 3)
    with jax.enable_x64(True):
        variables = weights.from_torchvision(name, state, image_size=size, **options)
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        signal, wanted = torch_way_back(twin, images, 2, stage=3)
        back = np.asarray(PROJECT(net, variables, images, "stage3", signal.numpy()))
    assert wanted.abs().max() > 1e-9
    close(back / wanted.abs().max().item(), wanted / wanted.abs().max())


def test_rematerialised_networks_are_plain_ones_and_loops_are_refused():
    images = normal(1, 32, 32, 3).astype(np.float32)
    net = models.build("vgg11", width=0.05, hidden=(4,), remat=True)
    assert features.plain(net) == net.clone(remat=False)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape),
                             jax.eval_shape(lambda: net.init(jax.random.key(0), images)))
    assert jax.eval_shape(lambda: deconv.project(net, variables, images, "stage2", jnp.ones((1, 8, 8, 6)))
                          ).shape == images.shape
    with pytest.raises(UserError, match="no layer 'stag1'; did you mean 'stage1'"):
        deconv.project(net, variables, images, "stag1", jnp.ones(()))
    looped = models.build("resnet20", stage_sizes=(3, 3, 3), stage_features=(2, 2, 2), scan=True)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape),
                             jax.eval_shape(lambda: looped.init(jax.random.key(0), images)))
    with pytest.raises(UserError, match="loop"):
        jax.eval_shape(lambda: deconv.project(looped, variables, images, "stage1", jnp.ones((1, 32, 32, 2))))


def test_the_receptive_field_holds_all_that_the_value_depends_on():
    """AlexNet's first layer and pooling see 19 pixels, in steps of 8; the first begin two pixels outside the image."""
    net = Net(lambda x: F.avg_pool(Conv(2, 11, strides=4, padding=2, name="conv")(x), 3, 2))
    images = normal(1, 99, 99, 1)
    with jax.enable_x64(True):
        variables = {"params": {"conv": {"kernel": np.ones((11, 11, 1, 2)), "bias": np.ones(2)}}}
        field = deconv.receptive_field(net, variables, images, "stage1")
        assert field(0) == (-2, 17, -2, 17)
        assert field(14) == (6, 25, 22, 41)
        for place in (0, 14, 60):  # of 11x11
            signal = np.zeros((1, 121, 2))
            signal[0, place] = 1
            seen = np.asarray(PROJECT(net, variables, images, "stage1", signal.reshape(1, 11, 11, 2)))[0, ..., 0]
            (rows, columns), box = np.nonzero(seen), field(place)
            assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == tuple(np.clip(box, 0, 99))
        dense = models.build("mlp", hidden_sizes=(3,))
        variables = jax.eval_shape(lambda: dense.init(jax.random.key(0), images))
        assert deconv.receptive_field(dense, variables, images, "stage1")(0) == (0, 99, 0, 99)


def test_strongest_keep_one_and_cut():
    maps = normal(3, 4, 5, 2)
    values, places = deconv.strongest(jnp.asarray(maps, jnp.float32))
    np.testing.assert_array_equal(values, maps.astype(np.float32).max((1, 2)))
    one = np.asarray(deconv.keep_one(jnp.asarray(maps), jnp.array([0, 1, 1]), places[[0, 1, 2], [0, 1, 1]]))
    assert (np.count_nonzero(one, (1, 2)) == [[1, 0], [0, 1], [0, 1]]).all()
    np.testing.assert_array_equal(one.max((1, 2))[[0, 1, 2], [0, 1, 1]], np.asarray(values)[[0, 1, 2], [0, 1, 1]])
    image = np.arange(12.0).reshape(3, 4, 1)
    np.testing.assert_array_equal(deconv.cut(image, (-1, 2, 3, 6), 0.5)[..., 0],
                                  [[0.5, 0.5, 0.5], [3, 0.5, 0.5], [7, 0.5, 0.5]])
