"""Pictures of blocks: the nodes that are found in a traced program, and that they are drawn without overlaps."""
import xml.etree.ElementTree as ET
from functools import partial
from itertools import combinations, pairwise

import flax.linen as nn
import pytest

from modern_cnn import functional as F
from modern_cnn.inspection import summary
from modern_cnn.layers import Conv
from modern_cnn.models import build, densenet, googlenet, resnet, vgg
from scripts.publish import drawing, pages
from scripts.publish.blocks import trace
from scripts.publish.drawing import Panel, draw

SVG = "{http://www.w3.org/2000/svg}"


def found(*args):
    """Return [(label, numbers of the nodes before it)], without the input."""
    return [(node.label, node.inputs) for node in trace(*args)[1:]]


def test_a_residual_block_and_its_shortcuts():
    assert found(resnet.Residual(8), (8, 8, 8)) == [
        ("3x3 conv, 8", [0]), ("batch norm", [1]), ("ReLU", [2]), ("3x3 conv, 8", [3]), ("batch norm", [4]),
        ("+", [5, 0]), ("ReLU", [6])]
    projected = trace(resnet.Residual(8, strides=2), (8, 8, 4))
    assert [(node.label, node.inputs, node.shape) for node in projected[-5:]] == [
        ("batch norm", [4], (4, 4, 8)), ("1x1 conv, 8, stride 2", [0], (4, 4, 8)), ("batch norm", [6], (4, 4, 8)),
        ("+", [5, 7], (4, 4, 8)), ("ReLU", [8], (4, 4, 8))]
    assert ("zeros for new channels", [0]) in found(resnet.Residual(8, strides=2, shortcut="pad"), (8, 8, 4))
    assert "+" not in dict(found(resnet.Residual(8, shortcut="none"), (8, 8, 8)))


def test_pre_activation():
    assert found(resnet.Residual(8, preactivation=True), (8, 8, 8)) == [
        ("batch norm", [0]), ("ReLU", [1]), ("3x3 conv, 8", [2]), ("batch norm", [3]), ("ReLU", [4]),
        ("3x3 conv, 8", [5]), ("+", [6, 0])]


def test_inception():
    assert found(googlenet.Inception((1, 2, 3, 4, 5, 6)), (8, 8, 4)) == [
        ("1x1 conv, 1", [0]), ("ReLU", [1]),
        ("1x1 conv, 2", [0]), ("ReLU", [3]), ("3x3 conv, 3", [4]), ("ReLU", [5]),
        ("1x1 conv, 4", [0]), ("ReLU", [7]), ("5x5 conv, 5", [8]), ("ReLU", [9]),
        ("3x3 max-pool", [0]), ("1x1 conv, 6", [11]), ("ReLU", [12]),
        ("concatenate channels", [2, 6, 10, 13])]


def test_a_dense_block_whose_layers_are_one_box_each():
    layer = partial(densenet.DenseLayer, bottleneck=4)
    assert found(densenet.DenseBlock(3, 2, layer), (8, 8, 4), [densenet.DenseLayer]) == [
        ("layer 1\n1x1 conv, 8\n3x3 conv, 2", [0]), ("layer 2\n1x1 conv, 8\n3x3 conv, 2", [0, 1]),
        ("layer 3\n1x1 conv, 8\n3x3 conv, 2", [0, 1, 2]), ("concatenate channels", [0, 1, 2, 3])]


def test_whole_networks():
    assert [(node.label, node.shape) for node in trace(build("lenet"), (28, 28, 1))[1:]] == [
        ("5x5 conv, 6", (28, 28, 6)), ("sigmoid", (28, 28, 6)), ("2x2 average pool, stride 2", (14, 14, 6)),
        ("5x5 conv, 16", (10, 10, 16)), ("sigmoid", (10, 10, 16)), ("2x2 average pool, stride 2", (5, 5, 16)),
        ("dense, 120", (120,)), ("sigmoid", (120,)), ("dense, 84", (84,)), ("sigmoid", (84,)), ("dense, 10", (10,))]
    labels = [label for label, _ in found(build("alexnet_2012"), (227, 227, 3))]
    assert labels[:5] == ["11x11 conv, 96, stride 4", "ReLU", "local response norm", "3x3 max-pool, stride 2",
                          "5x5 conv, 256, 2 groups"]
    labels = [label for label, _ in found(build("vgg16"), (224, 224, 3), [vgg.VGGBlock])]
    assert labels[1:4] == ["block 2\n3x3 conv, 128 (twice)", "block 3\n3x3 conv, 256 (3 times)",
                           "block 4\n3x3 conv, 512 (3 times)"]


class Twice(nn.Module):
    """A network with the same pooling twice in a row."""

    @nn.compact
    def __call__(self, x):
        return F.max_pool(F.max_pool(Conv(2, 1, name="conv1")(x), 2), 2)


def test_two_poolings_in_a_row_are_two():
    assert [node.shape for node in trace(Twice(), (8, 8, 1))] == [(8, 8, 1), (8, 8, 2), (4, 4, 2), (2, 2, 2)]


@pytest.mark.parametrize("name", ["lenet_relu_bn", "nin_cifar", "resnet18_cifar", "densenet_d2l"])
def test_no_layer_is_lost(name):
    """The summary finds the same layers in its own way."""
    shape = pages.models.INPUTS[name][0]
    kinds = [row.kind for row in summary.summarize(build(name), shape).layers]
    nodes = [node.kind for node in trace(build(name), shape)]
    for kind in ("conv", "dense", "pool", "norm"):
        assert nodes.count(kind) == kinds.count(kind)


def boxes(root):
    """Return (left, top, right, bottom) of every rectangle but the background."""
    found = [[float(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in root.iter(f"{SVG}rect")
             if rect.get("x")]
    return [(x, y, x + width, y + height) for x, y, width, height in found]


@pytest.mark.parametrize("page", ["lenet", "vgg", "nin", "googlenet", "resnet", "densenet"])
def test_the_pictures_can_be_read(page):
    root = ET.fromstring(drawing.draw(pages.FAMILIES[page].panels()))
    width, height = (float(root.get(key)) for key in ("width", "height"))
    assert width <= 900  # the width of a page
    rectangles = boxes(root)
    for a, b in combinations(rectangles, 2):  # those that touch may round by a pixel
        assert a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
    assert all(min(x, y) >= 0 and right <= width and bottom <= height for x, y, right, bottom in rectangles)
    for text in root.iter(f"{SVG}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        half = 3.2 * len(text.text)  # of Helvetica; a bold title has no box
        around = [box for box in rectangles if box[0] < x < box[2] and box[1] < y < box[3]]
        assert x >= half
        assert x + half <= width
        assert all(box[0] <= x - half and x + half <= box[2] for box in around)
    for path in root.iter(f"{SVG}path"):
        if path.get("marker-end"):  # an arrow ends at a box, a sum or the result, and goes through no box
            points = [tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")]
            for (ax, ay), (bx, by) in pairwise(points):
                for left, top, right, bottom in rectangles:
                    assert not (max(min(ax, bx), left + 2) < min(max(ax, bx), right - 2) and top + 2 < ay < bottom - 2)
                    assert not (max(min(ay, by), top + 2) < min(max(ay, by), bottom - 2) and left + 2 < ax < right - 2)


def test_labels_are_text_and_not_markup():
    assert "a &lt; b" in draw([Panel("a < b", trace(resnet.Residual(2), (4, 4, 2)))])
