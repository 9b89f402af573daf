"""Saliency, Grad-CAM, occlusion, feature maps and the loss along lines, against PyTorch's autograd and plain loops."""
import flax.linen as nn
import jax
import numpy as np
import pytest
import torch

from modern_cnn import models, weights
from modern_cnn.errors import UserError
from modern_cnn.inspection import features
from modern_cnn.layers import BatchNorm, Dense
from tests.functional.oracle import FAST_COMPILE, close, nchw, nhwc, normal
from tests.models.cases import slow
from tests.models.torch_nets import torch_net

OPTIONS = {"width": 0.06, "hidden": (8, 8)}
LABELS = np.array([3, 0])


@pytest.fixture(scope="module")
def both():
    """Return (PyTorch's VGG-11, ours, its variables, images) in float64, with random biases and statistics."""
    torch.manual_seed(0)
    twin = torch_net("vgg11_bn", **OPTIONS).eval()
    with torch.no_grad():
        for leaf in [*twin.parameters(), *twin.buffers()]:
            if leaf.ndim == 1:
                leaf.uniform_(0.5, 1.5)
    twin = twin.double()
    variables = weights.from_torchvision(
        "vgg11_bn", {key: value.numpy() for key, value in twin.state_dict().items()}, **OPTIONS)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    return twin, models.build("vgg11_bn", **OPTIONS), variables, normal(2, 48, 40, 3)


def fast(function, *static):
    return jax.jit(function, static_argnums=static, compiler_options=FAST_COMPILE)


def relative(got, want):
    want = want.detach().numpy()
    assert np.abs(want).max() > 0
    close(np.asarray(got) / np.abs(want).max(), want / np.abs(want).max())


def test_saliency_is_pytorchs(both):
    twin, net, variables, images = both
    theirs = torch.tensor(images, requires_grad=True)
    logits = twin(nchw(theirs))
    logits[range(2), LABELS].sum().backward()
    with jax.enable_x64(True):
        relative(fast(features.saliency, 0)(net, variables, images, LABELS), theirs.grad.abs().amax(-1))


@pytest.mark.parametrize("layer", ["stage2", slow("stage3"), slow("block3/norm2")])
def test_grad_cam_is_pytorchs(both, layer):
    twin, net, variables, images = both
    poolings = [i for i, each in enumerate(twin.features) if isinstance(each, torch.nn.MaxPool2d)]
    end = {"stage2": poolings[1] + 1, "stage3": poolings[2] + 1, "block3/norm2": poolings[2] - 1}[layer]
    maps = twin.features[:end](nchw(torch.tensor(images)))
    logits = twin.classifier(torch.flatten(twin.avgpool(twin.features[end:](maps)), 1))
    gradient, = torch.autograd.grad(logits[range(2), LABELS].sum(), maps)
    wanted = (maps * gradient.mean((2, 3), keepdim=True)).sum(1).relu()
    with jax.enable_x64(True):
        relative(fast(features.grad_cam, 0, 4)(net, variables, images, LABELS, layer), wanted)


def test_grad_cam_of_what_is_no_map_is_refused(both):
    _, net, variables, images = both
    with pytest.raises(UserError, match=r"dense1 is \[8\], not a map"):
        features.grad_cam(net, variables, images.astype(np.float32), LABELS, "dense1")


def test_feature_maps_are_those_of_the_layers(both):
    twin, net, variables, images = both
    with jax.enable_x64(True), torch.no_grad():
        x = nchw(torch.tensor(images))
        maps = fast(features.feature_maps, 0, 3)
        close(maps(net, variables, images, "block1/conv1"), nhwc(twin.features[0](x)))
        close(maps(net, variables, images, "stage1"), nhwc(twin.features[:4](x)))
        name, kernel = features.first_filters(net, variables, images)
    assert name == "block1/conv1"
    close(kernel, twin.features[0].weight.detach().permute(2, 3, 1, 0))
    known = features.layers(net, variables, images)
    assert list(known)[:6] == ["stage1", "stage2", "stage3", "stage4", "stage5", "Dropout_0"]
    assert known["stage2"] == (2, 12, 10, 8)
    assert features.stages(net, variables, images) == ["stage1", "stage2", "stage3"]  # then 3x2 and 1x1
    mlp = models.build("mlp", hidden_sizes=(3,))
    with pytest.raises(UserError, match="MLP has no convolution"):
        features.first_filters(mlp, mlp.init(jax.random.key(0), images), images)


def test_occlusion_is_a_loop_over_squares(both):
    _, net, variables, images = both
    with jax.enable_x64(True):
        found = np.asarray(features.occlusion(net, variables, images, LABELS, size=12, stride=8, fill=0.25))
        assert found.shape == (2, 6, 5)
        apply = jax.jit(net.apply, compiler_options=FAST_COMPILE)
        for i, j in ((0, 0), (2, 3), (5, 4)):
            covered = images.copy()
            top, left = 8 * i - 2, 8 * j - 2
            covered[:, max(top, 0):top + 12, max(left, 0):left + 12] = 0.25
            chances = jax.nn.softmax(apply(variables, covered))
            close(found[:, i, j], chances[[0, 1], LABELS])
    assert features.window_of(32) == (8, 2)


def test_directions_are_as_long_as_the_filters():
    params = {"conv": {"kernel": normal(3, 3, 40, 4), "bias": normal(4)}, "dense": {"kernel": normal(40, 4, seed=1)},
              "norm": {"scale": normal(4)}}
    with jax.enable_x64(True):
        drawn = jax.tree.map(np.asarray, jax.jit(features.filter_normalized)(jax.random.key(0), params))
    for layer in ("conv", "dense"):
        one, two = (tree[layer]["kernel"].reshape(-1, 4) for tree in (drawn, params))
        close(np.linalg.norm(one, axis=0), np.linalg.norm(two, axis=0))
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.3
    assert not drawn["norm"]["scale"].any()
    assert not drawn["conv"]["bias"].any()


def test_the_first_filters_may_be_no_parameters():
    module = models.build("airbench94", width=0.1)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    name, kernel = features.first_filters(module, variables, np.zeros((1, 32, 32, 3)))
    assert (name, kernel.shape) == ("whiten", (2, 2, 3, 24))


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return BatchNorm(train, name="norm")(Dense(4, name="dense")(x.reshape(len(x), -1)))


def test_running_variances_beyond_the_end_of_a_line_are_not_negative():
    images, labels = normal(5, 2, 2, 1), np.array([3, 0, 1, 1, 2])
    end = Small().init(jax.random.key(0), images)
    end = end | {"batch_stats": {"norm": {"mean": np.zeros(4), "var": np.full(4, 0.1)}}}
    direction = {"batch_stats": {"norm": {"mean": np.zeros(4), "var": np.full(4, -0.9)}}}
    loss, _ = features.loss_along(Small(), end, direction, (0.1, 0.25, 1), images, labels)
    assert np.isfinite(loss).all()
    assert loss[0] != loss[1] == loss[2]  # 0.01, and then 0


def test_the_loss_along_a_line_is_numpys():
    """The statistics move too, and the images do not fill the last batch."""
    images, labels = normal(5, 2, 2, 1), np.array([3, 0, 1, 1, 2])
    start = {"params": {"dense": {"kernel": normal(4, 4), "bias": normal(4)},
                        "norm": {"scale": normal(4, seed=1), "bias": normal(4, seed=2)}},
             "batch_stats": {"norm": {"mean": normal(4, seed=3), "var": 1 + normal(4, seed=4) ** 2}}}
    with jax.enable_x64(True):
        end = jax.tree.map(lambda leaf: 1.1 * leaf, start)
        loss, accuracy = features.loss_along(Small(), end, jax.tree.map(np.subtract, end, start), (-1, 0, 0.5),
                                             images, labels, batch_size=3)
        only_weights = features.loss_along(Small(), end, {"params": start["params"]}, (0.5,), images, labels)
    for factor, statistics, found in [(1, 1, (loss[0], accuracy[0])), (1.1, 1.1, (loss[1], accuracy[1])),
                                      (1.15, 1.15, (loss[2], accuracy[2])), (1.6, 1.1, np.ravel(only_weights))]:
        (dense, norm), ((state,),) = start["params"].values(), (start["batch_stats"].values(),)
        y = images.reshape(5, 4) @ (factor * dense["kernel"]) + factor * dense["bias"]
        y = (y - statistics * state["mean"]) / np.sqrt(statistics * state["var"] + 1e-5)
        y = y * factor * norm["scale"] + factor * norm["bias"]
        chances = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        np.testing.assert_allclose(found, (-np.log(chances[range(5), labels]).mean(), (y.argmax(1) == labels).mean()),
                                   rtol=1e-10)
