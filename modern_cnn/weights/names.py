"""PyTorch's names of all layers, family by family.

The names are torchvision's, except for the textbook's networks (Dive into Deep Learning, PyTorch code, chapters 6 and
7; its RegNet is of the English edition), which are nested `Sequential`s: numbers are their names. Airbench's are its
author's, MobileNet's are timm's. A pair may have no layer in a given network, for example a normalisation with
norm='none'.
"""
from collections.abc import Iterator

from modern_cnn.models.airbench import Airbench
from modern_cnn.models.alexnet import AlexNet
from modern_cnn.models.densenet import DenseNet
from modern_cnn.models.googlenet import INCEPTIONS, GoogLeNet
from modern_cnn.models.lenet import LeNet
from modern_cnn.models.mobilenet import MobileNet
from modern_cnn.models.nin import NiN
from modern_cnn.models.regnet import AnyNet
from modern_cnn.models.resnet import ResNet
from modern_cnn.models.vgg import VGG

_Pairs = Iterator[tuple[str, tuple[str, ...]]]


def _alexnet(net: AlexNet, textbook: bool) -> _Pairs:
    step = 0 if net.norm == "none" else 1  # a normalisation after every convolution
    features, classifier = ("", (14, 17, 20)) if textbook else ("features.", (1, 4, 6))
    convolutions = (0, 3 + step, 6 + 2 * step, 8 + 3 * step, 10 + 4 * step)
    for i, index in enumerate(convolutions, start=1):
        yield f"{features}{index}", (f"conv{i}",)
        yield f"{features}{index + 1}", (f"norm{i}",)
    for i, index in enumerate(classifier, start=1):
        yield f"{index + 5 * step}" if textbook else f"classifier.{index}", (f"dense{i}",)


def _vgg(net: VGG, textbook: bool) -> _Pairs:
    step, index = (2 if net.norm == "none" else 3), 0  # convolution, perhaps normalisation, ReLU
    for stage, size in enumerate(net.stage_sizes, start=1):
        for i in range(1, size + 1):
            prefix = f"{stage - 1}." if textbook else "features."
            yield f"{prefix}{index}", (f"block{stage}", f"conv{i}")
            yield f"{prefix}{index + 1}", (f"block{stage}", f"norm{i}")
            index += step
        index = 0 if textbook else index + 1  # the pooling
    for i in range(len(net.hidden) + 1):
        yield f"{len(net.stage_sizes) + 1 + 3 * i}" if textbook else f"classifier.{3 * i}", (f"dense{i + 1}",)


def _nin(net: NiN, textbook: bool) -> _Pairs:
    index = 0
    for block, stage in enumerate(net.stages if net.hidden is None else net.stages[:-1], start=1):
        step = 2 if net.norm == "none" or block == len(net.stages) else 3
        for i in range(3):
            yield f"{index}.{step * i}", (f"block{block}", f"conv{i + 1}")
            yield f"{index}.{step * i + 1}", (f"block{block}", f"norm{i + 1}")
        index += 1 + (stage.pool is not None) + stage.dropout
    for i in range(0 if net.hidden is None else len(net.hidden) + 1):  # flattening; then dense, ReLU and dropout
        yield f"{index + 1 + 3 * i}", (f"dense{i + 1}",)


def _googlenet(net: GoogLeNet, textbook: bool) -> _Pairs:
    stem = ("0.0", "1.0", "1.2") if textbook else ("conv1", "conv2", "conv3")
    names = (("b1_1", "b2_1", "b2_2", "b3_1", "b3_2", "b4_2") if textbook
             else ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1"))
    branches = ("branch1", "branch2_reduce", "branch2", "branch3_reduce", "branch3", "branch4")
    units = {theirs: (f"conv{i}",) for i, theirs in enumerate(stem, start=1)}
    for stage, labels in enumerate(INCEPTIONS, start=2):
        for i, label in enumerate(labels):
            block = f"{stage}.{i}" if textbook else f"inception{label}"
            units |= {f"{block}.{theirs}": (f"inception{label}", ours)
                      for theirs, ours in zip(names, branches, strict=True)}
    units |= {} if textbook else {f"aux{i}.conv": (f"aux{i}", "conv1") for i in (1, 2)}
    for theirs, ours in units.items():
        for layer, ending in ({"conv": ""} if textbook else {"conv": ".conv", "norm": ".bn"}).items():
            yield f"{theirs}{ending}", (*ours, layer)
        if ours[0] in ("aux1", "aux2"):
            yield from ((f"{ours[0]}.fc{j}", (ours[0], f"dense{j}")) for j in (1, 2))
    yield "5" if textbook else "fc", ("dense",)


def _resnet(net: ResNet, textbook: bool) -> _Pairs:
    yield "0.0" if textbook else "conv1", ("conv1",)
    yield "0.1" if textbook else "bn1", ("norm1",)
    for stage, size in enumerate(net.stage_sizes, start=1):
        for i in range(size):
            theirs, ours = f"{stage}.{i}" if textbook else f"layer{stage}.{i}", f"stage{stage}_block{i + 1}"
            for j in range(1, 3 if net.block == "residual" else 4):
                yield f"{theirs}.conv{j}", (ours, f"conv{j}")
                yield f"{theirs}.bn{j}", (ours, f"norm{j}")
            yield f"{theirs}.{'conv3' if textbook else 'downsample.0'}", (ours, "shortcut_conv")
            yield f"{theirs}.downsample.1", (ours, "shortcut_norm")  # which the textbook's do not have
    yield "bn2", ("norm2",)  # only with pre-activation, which torchvision does not have
    yield f"{len(net.stage_sizes) + 1}.2" if textbook else "fc", ("dense",)


def _densenet(net: DenseNet, textbook: bool) -> _Pairs:
    layers = ("norm1", "conv1", "norm2", "conv2", "norm", "conv")
    names = dict(zip(layers, ("0", "2") * 3 if textbook else layers, strict=True))
    yield "0.0" if textbook else "features.conv0", ("conv1",)
    yield "0.1" if textbook else "features.norm0", ("norm1",)
    for block, size in enumerate(net.block_sizes, start=1):
        for i in range(size):
            theirs = f"{2 * block - 1}.net.{i}" if textbook else f"features.denseblock{block}.denselayer{i + 1}"
            for name in layers[:2 if textbook else 4]:
                yield f"{theirs}.{names[name]}", (f"block{block}", f"layer{i + 1}", name)
        theirs = f"{2 * block}" if textbook else f"features.transition{block}"
        for name in layers[4:]:
            yield f"{theirs}.{names[name]}", (f"transition{block}", name)
    last = len(net.block_sizes)
    yield f"{2 * last}.0" if textbook else f"features.norm{last + 1}", ("norm2",)
    yield f"{2 * last}.4" if textbook else "classifier", ("dense",)


def _regnet(net: AnyNet, textbook: bool) -> _Pairs:
    yield "0.0" if textbook else "stem.0", ("conv1",)
    yield "0.1" if textbook else "stem.1", ("norm1",)
    layers = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "shortcut_conv", "shortcut_norm")
    names = (("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "conv4", "bn4") if textbook
             else ("f.a.0", "f.a.1", "f.b.0", "f.b.1", "f.c.0", "f.c.1", "proj.0", "proj.1"))
    for stage, size in enumerate(net.stage_sizes, start=1):
        for i in range(size):
            block = f"stage{stage}.{i}" if textbook else f"trunk_output.block{stage}.block{stage}-{i}"
            for theirs, ours in zip(names, layers, strict=True):
                yield f"{block}.{theirs}", (f"stage{stage}_block{i + 1}", ours)
    yield "head.2" if textbook else "fc", ("dense",)


def _mobilenet(net: MobileNet, textbook: bool) -> _Pairs:
    yield "conv_stem", ("conv1",)
    yield "bn1", ("norm1",)
    for stage, size in enumerate(net.stage_sizes):
        for i in range(size):
            for theirs, ours in {"conv_dw": "conv1", "bn1": "norm1", "conv_pw": "conv2", "bn2": "norm2"}.items():
                yield f"blocks.{stage}.{i}.{theirs}", (f"stage{stage + 1}_block{i + 1}", ours)
    yield "classifier", ("dense",)


def _lenet(net: LeNet, textbook: bool) -> _Pairs:
    layers = ("conv1", "conv2", "dense1", "dense2", "dense3", "norm1", "norm2", "norm3", "norm4")
    numbers = (0, 3, 7, 9, 11) if net.norm == "none" else (0, 4, 9, 12, 15, 1, 5, 10, 13)
    for number, layer in zip(numbers, layers, strict=False):
        yield f"{number}", (layer,)


def _airbench(net: Airbench, textbook: bool) -> _Pairs:
    yield "whiten", ("whiten",)
    for i in range(1, len(net.stage_features) + 1):  # layers.0 is the activation
        for layer in ("conv1", "norm1", "conv2", "norm2"):
            yield f"layers.{i}.{layer}", (f"block{i}", layer)
    yield "head", ("dense1",)


# class -> (network, whether the names are the textbook's) -> pairs (PyTorch's prefix, our path)
TABLES = {AlexNet: _alexnet, VGG: _vgg, NiN: _nin, GoogLeNet: _googlenet, ResNet: _resnet, DenseNet: _densenet,
          MobileNet: _mobilenet, AnyNet: _regnet, LeNet: _lenet, Airbench: _airbench}
