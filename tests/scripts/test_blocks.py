"""Pictures of blocks: the nodes that are found in a traced program, and the boxes and arrows that they are drawn as."""
import re
from functools import partial
from html import unescape

import flax.linen as nn
import pytest

from modern_cnn import functional as F
from modern_cnn.inspection import summary
from modern_cnn.layers import Conv
from modern_cnn.models import build, densenet, googlenet, resnet
from scripts.publish import pages
from scripts.publish.blocks import Panel, draw, shape_text, trace


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
    assert found(densenet.DenseBlock(3, 2, layer), (8, 8, 4), "layer") == [
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
    labels = [label for label, _ in found(build("vgg16"), (224, 224, 3), "block")]
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


def parsed(diagram):
    """Return for each panel of a diagram (title, {box: (lines, kind)}, {(box, box): what is written at the arrow})."""
    first, direction, *lines, last = diagram.splitlines()
    assert (first, direction, last) == ("```mermaid", "flowchart LR", "```")
    defined = {line.split()[1] for line in lines if line.startswith("classDef ")}
    panels, order = [], None
    for line in lines:
        if title := re.fullmatch(r'subgraph p(\d+)\["(.+)"\]', line):
            assert int(title[1]) == len(panels)
            panels.append((unescape(title[2]), {}, {}))
        elif "~~~" in line or re.fullmatch(r"p\d", line):
            order = line.split(" ~~~ ")
        elif not re.fullmatch(r"classDef .+|end|direction TB", line):
            ends, arrow = [], re.fullmatch(r'(.+) -->(?:\|"(\w+)"\|)? (.+)', line)
            for end in (arrow[1], arrow[3]) if arrow else (line,):
                box = re.fullmatch(rf'p{len(panels) - 1}n(\d+)(?:(\["|\(\(")(.+)("\]|"\)\)):::(\w+))?', end)
                assert box, end
                ends.append(int(box[1]))
                if box[2]:
                    assert (box[2] == '(("') == (box[4] == '"))') == (box[5] == "add")
                    assert box[5] in defined
                    panels[-1][1][ends[-1]] = [unescape(text) for text in box[3].split("<br>")], box[5]
            if arrow:
                panels[-1][2][tuple(ends)] = arrow[2]
    assert order == [f"p{n}" for n in range(len(panels))]
    return panels


@pytest.mark.parametrize("page", pages.FAMILIES)
def test_a_picture_has_the_nodes_and_connections_of_the_program(page):
    """Split into their nodes again, boxes and arrows are what `trace` found; shapes stand at arrows between layers."""
    panels = pages.FAMILIES[page].panels
    for panel, (title, boxes, arrows) in zip(panels, parsed(draw(panels)), strict=True):
        assert title == panel.title
        nodes, links, last = trace(*panel[1:]), [], {}
        assert boxes.pop(0) == ([shape_text(nodes[0].shape)], "shape")
        assert boxes.pop(len(nodes)) == ([shape_text(nodes[-1].shape)], "shape")
        for first, (lines, kind) in boxes.items():
            number, kinds = first, []
            while lines:
                label = nodes[number].label.split("\n")
                assert lines[:len(label)] == label
                lines = lines[len(label):]
                kinds.append(nodes[number].kind)
                last[first] = number
                number += 1
            links += [(n, n + 1) for n in range(first, last[first])]
            assert kind in kinds
            assert len(kinds) == 1 or set(kinds) - {kind} <= {"norm", "activation"}
        assert sorted(n for first in last for n in range(first, last[first] + 1)) == [*range(1, len(nodes))]
        links += [(last.get(a, 0), b) for a, b in arrows]
        assert sorted(links) == sorted([(i, n) for n, node in enumerate(nodes) for i in node.inputs]
                                       + [(len(nodes) - 1, len(nodes))])
        assert {(a, b): text for (a, b), text in arrows.items() if text} == {
            (a, b): shape_text(nodes[last[a]].shape) for a, b in arrows if a and b < len(nodes)}


def test_normalisation_and_activation_share_the_box_of_a_layer():
    after, before = parsed(draw([Panel("a", resnet.Residual(8, strides=2), (8, 8, 4)),
                                 Panel("b", resnet.Residual(8, preactivation=True), (8, 8, 8))]))
    assert after[1:] == (
        {0: (["8x8x4"], "shape"), 1: (["3x3 conv, 8, stride 2", "batch norm", "ReLU"], "conv"),
         4: (["3x3 conv, 8", "batch norm"], "conv"), 6: (["1x1 conv, 8, stride 2", "batch norm"], "conv"),
         8: (["+"], "add"), 9: (["ReLU"], "activation"), 10: (["4x4x8"], "shape")},
        {(0, 1): None, (1, 4): "4x4x8", (0, 6): None, (4, 8): "4x4x8", (6, 8): "4x4x8", (8, 9): "4x4x8", (9, 10): None})
    assert before[1:] == (
        {0: (["8x8x8"], "shape"), 1: (["batch norm", "ReLU", "3x3 conv, 8"], "conv"),
         4: (["batch norm", "ReLU", "3x3 conv, 8"], "conv"), 7: (["+"], "add"), 8: (["8x8x8"], "shape")},
        {(0, 1): None, (1, 4): "8x8x8", (4, 7): "8x8x8", (0, 7): None, (7, 8): None})


def test_labels_are_text_and_not_markup():
    assert 'subgraph p0["a &lt; &quot;b&quot;"]' in draw([Panel('a < "b"', resnet.Residual(2), (4, 4, 2))])
