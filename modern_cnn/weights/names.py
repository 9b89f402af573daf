"""PyTorch's names of all layers, family by family.

The names are torchvision's, except for the textbook's networks (Dive into Deep Learning, PyTorch code, chapters 6 and
7), which are nested `Sequential`s: numbers are their names. A pair may have no layer in a given network, for example a
normalisation with norm='none'.
"""
from collections.abc import Iterator

from modern_cnn.models.alexnet import AlexNet
from modern_cnn.models.densenet import DenseNet
from modern_cnn.models.googlenet import INCEPTIONS, GoogLeNet
from modern_cnn.models.lenet import LeNet
from modern_cnn.models.nin import NiN
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
    if textbook:
        yield from (("0.0", ("conv1", "conv")), ("1.0", ("conv2", "conv")), ("1.2", ("conv3", "conv")))
        names = {"branch1": "b1_1", "branch2_reduce": "b2_1", "branch2": "b2_2", "branch3_reduce": "b3_1",
                 "branch3": "b3_2", "branch4": "b4_2"}
        for stage, blocks in enumerate(INCEPTIONS, start=2):
            for i, label in enumerate(blocks):
                for ours, theirs in names.items():
                    yield f"{stage}.{i}.{theirs}", (f"inception{label}", ours, "conv")
        yield "5", ("dense",)
        return
    units = {f"conv{i}": (f"conv{i}",) for i in (1, 2, 3)}
    names = {"branch1": "branch1", "branch2_reduce": "branch2.0", "branch2": "branch2.1",
             "branch3_reduce": "branch3.0", "branch3": "branch3.1", "branch4": "branch4.1"}
    units |= {f"inception{label}.{theirs}": (f"inception{label}", ours)
              for blocks in INCEPTIONS for label in blocks for ours, theirs in names.items()}
    units |= {f"aux{i}.conv": (f"aux{i}", "conv1") for i in (1, 2)}
    for theirs, ours in units.items():
        yield f"{theirs}.conv", (*ours, "conv")
        yield f"{theirs}.bn", (*ours, "norm")
        if ours[0] in ("aux1", "aux2"):
            yield from ((f"{ours[0]}.fc{j}", (ours[0], f"dense{j}")) for j in (1, 2))
    yield "fc", ("dense",)


def _resnet(net: ResNet, textbook: bool) -> _Pairs:
    yield from (("0.0", ("conv1",)), ("0.1", ("norm1",))) if textbook else (("conv1", ("conv1",)), ("bn1", ("norm1",)))
    shortcut = ("conv3", None) if textbook else ("downsample.0", "downsample.1")
    for stage, size in enumerate(net.stage_sizes, start=1):
        for i in range(size):
            theirs, ours = f"{stage}.{i}" if textbook else f"layer{stage}.{i}", f"stage{stage}_block{i + 1}"
            for j in range(1, 3 if net.block == "residual" else 4):
                yield f"{theirs}.conv{j}", (ours, f"conv{j}")
                yield f"{theirs}.bn{j}", (ours, f"norm{j}")
            yield f"{theirs}.{shortcut[0]}", (ours, "shortcut_conv")
            yield f"{theirs}.{shortcut[1]}", (ours, "shortcut_norm")
    yield "bn2", ("norm2",)  # only with pre-activation, which torchvision does not have
    yield f"{len(net.stage_sizes) + 1}.2" if textbook else "fc", ("dense",)


def _densenet(net: DenseNet, textbook: bool) -> _Pairs:
    if textbook:
        yield from (("0.0", ("conv1",)), ("0.1", ("norm1",)))
        for block, size in enumerate(net.block_sizes, start=1):
            for i in range(size):
                yield f"{2 * block - 1}.net.{i}.0", (f"block{block}", f"layer{i + 1}", "norm1")
                yield f"{2 * block - 1}.net.{i}.2", (f"block{block}", f"layer{i + 1}", "conv1")
            yield f"{2 * block}.0", (f"transition{block}", "norm")
            yield f"{2 * block}.2", (f"transition{block}", "conv")
        last = 2 * len(net.block_sizes)
        yield from ((f"{last}.0", ("norm2",)), (f"{last}.4", ("dense",)))
        return
    yield from (("features.conv0", ("conv1",)), ("features.norm0", ("norm1",)))
    for block, size in enumerate(net.block_sizes, start=1):
        for i in range(1, size + 1):
            for name in ("norm1", "conv1", "norm2", "conv2"):
                yield f"features.denseblock{block}.denselayer{i}.{name}", (f"block{block}", f"layer{i}", name)
        for name in ("norm", "conv"):
            yield f"features.transition{block}.{name}", (f"transition{block}", name)
    yield f"features.norm{len(net.block_sizes) + 1}", ("norm2",)
    yield "classifier", ("dense",)


def _lenet(net: LeNet, textbook: bool) -> _Pairs:
    numbers = (0, 3, 7, 9, 11) if net.norm == "none" else (0, 4, 9, 12, 15)
    for number, layer in zip(numbers, ("conv1", "conv2", "dense1", "dense2", "dense3"), strict=True):
        yield f"{number}", (layer,)
    for i, number in enumerate((1, 5, 10, 13), start=1):
        yield f"{number}", (f"norm{i}",)


# class -> (network, whether the names are the textbook's) -> pairs (PyTorch's prefix, our path)
TABLES = {AlexNet: _alexnet, VGG: _vgg, NiN: _nin, GoogLeNet: _googlenet, ResNet: _resnet, DenseNet: _densenet,
          LeNet: _lenet}
