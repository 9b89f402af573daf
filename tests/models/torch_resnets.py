"""Torchvision's ResNets, their relatives for CIFAR, and the TensorFlow text's, in PyTorch with torchvision's names."""
import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from tests.models.torch_textbook import wide


class SameConv2d(nn.Conv2d):
    """A layer with TensorFlow's SAME padding: an odd pixel of padding is at the bottom and the right."""

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride)


class PadShortcut(nn.Module):
    """The paper's option A: each second pixel, and channels of zeros at the end."""

    def __init__(self, stride, missing):
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x):
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.missing))


class Zero(nn.Module):
    def forward(self, x):
        return 0


NORMS = {"batch": nn.BatchNorm2d, "layer": partial(nn.GroupNorm, 1), "instance": lambda n: nn.GroupNorm(n, n),
         "group": lambda n: nn.GroupNorm(math.gcd(32, n), n), "none": lambda n: nn.Identity()}


class Design:
    """The constructors that the blocks of one network share: convolution, normalisation, shortcut."""

    def __init__(self, bias, norm, shortcut, stride_in_1x1, same, preactivation, groups, base_width):
        self.bias, self.norm, self.kind, self.same = bias, norm, shortcut, same
        self.stride_in_1x1, self.preactivation = stride_in_1x1, preactivation
        self.groups, self.base_width = groups, base_width

    def conv(self, inside, outside, kernel_size, stride=1, groups=1):
        if self.same:
            return SameConv2d(inside, outside, kernel_size, stride, bias=self.bias)
        return nn.Conv2d(inside, outside, kernel_size, stride, kernel_size // 2, groups=groups, bias=self.bias)

    def bottleneck(self, features):
        """Return the channels of a bottleneck's 3x3 convolution."""
        return self.groups * max(1, round(features * self.base_width / 64))

    def shortcut(self, inside, outside, stride):
        """Return the shortcut's layers; None if the input is added as it is."""
        if self.kind == "none":
            return Zero()
        if stride == 1 and inside == outside:
            return None
        if self.kind == "pad":
            return PadShortcut(stride, outside - inside)
        layers = [self.conv(inside, outside, 1, stride)]
        if self.kind == "projection" and not self.preactivation:
            layers.append(self.norm(outside))
        return nn.Sequential(*layers)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, inside, features, stride, design):
        super().__init__()
        self.conv1, self.bn1 = design.conv(inside, features, 3, stride), design.norm(features)
        self.conv2, self.bn2 = design.conv(features, features, 3), design.norm(features)
        self.downsample = design.shortcut(inside, features, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside, features, stride, design):
        super().__init__()
        strides, narrow = (stride, 1) if design.stride_in_1x1 else (1, stride), design.bottleneck(features)
        self.conv1, self.bn1 = design.conv(inside, narrow, 1, strides[0]), design.norm(narrow)
        self.conv2, self.bn2 = design.conv(narrow, narrow, 3, strides[1], design.groups), design.norm(narrow)
        self.conv3, self.bn3 = design.conv(narrow, 4 * features, 1), design.norm(4 * features)
        self.downsample = design.shortcut(inside, 4 * features, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class PreactBlock(nn.Module):
    """A block of normalisation, ReLU and convolution: two of 3x3, or the bottleneck's three."""

    def __init__(self, inside, features, stride, design, first, expansion):
        super().__init__()
        strides = (stride, 1) if design.stride_in_1x1 else (1, stride)
        narrow = design.bottleneck(features)
        convolutions = [(features, 3, stride, 1), (features, 3, 1, 1)] if expansion == 1 else [
            (narrow, 1, strides[0], 1), (narrow, 3, strides[1], design.groups), (4 * features, 1, 1, 1)]
        self.first, self.depth = first, len(convolutions)
        self.downsample = design.shortcut(inside, expansion * features, stride)
        for i, (outside, kernel_size, step, groups) in enumerate(convolutions, start=1):
            if not (first and i == 1):
                setattr(self, f"bn{i}", design.norm(inside))
            setattr(self, f"conv{i}", design.conv(inside, outside, kernel_size, step, groups))
            inside = outside

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            if not (self.first and i == 1):  # the first block's input is normalised and rectified by the stem
                y = torch.relu(getattr(self, f"bn{i}")(y))
            if i == 1:
                shortcut = self.downsample(y) if self.downsample else x
            y = getattr(self, f"conv{i}")(y)
        return y + shortcut


class ResNet(nn.Module):
    """A ResNet. Stem 'imagenet' is torchvision's, 'cifar' the paper's for 32x32 pixels, 'notebook' the other text's."""

    def __init__(self, num_classes, in_channels, stage_sizes, stage_features=(64, 128, 256, 512), width=1.0,
                 block=Basic, stem="imagenet", shortcut="projection", bias=False, norm="batch", stride_in_1x1=False,
                 same=False, preactivation=False, dropout_rate=0.0, groups=1, base_width=64):
        super().__init__()
        norm = norm if callable(norm) else NORMS[norm]
        bias = bias or norm is NORMS["none"]
        design = Design(bias, norm, shortcut, stride_in_1x1, same, preactivation, groups, base_width)
        inside = wide(stage_features[0], width)
        kernel_size, stride, padding = {"imagenet": (7, 2, 3), "cifar": (3, 1, 1), "notebook": (3, 1, 0)}[stem]
        self.conv1 = nn.Conv2d(in_channels, inside, kernel_size, stride, padding, bias=bias)
        self.bn1 = norm(inside)
        self.maxpool = {"imagenet": nn.MaxPool2d(3, 2, 1), "cifar": nn.Identity(), "notebook": nn.Sequential(
            nn.ConstantPad2d((0, 1, 0, 1), -math.inf), nn.MaxPool2d(2, 1))}[stem]
        self.stages = len(stage_sizes)
        for stage, (size, channels) in enumerate(zip(stage_sizes, stage_features, strict=True), start=1):
            blocks = []
            for i in range(size):
                arguments = inside, wide(channels, width), 2 if stage > 1 and i == 0 else 1, design
                blocks.append(PreactBlock(*arguments, stage == 1 and i == 0, block.expansion) if preactivation
                              else block(*arguments))
                inside = block.expansion * wide(channels, width)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        if preactivation:
            self.bn2 = norm(inside)
        self.preactivation, self.avgpool = preactivation, nn.AdaptiveAvgPool2d(1)
        self.dropout, self.fc = nn.Dropout(dropout_rate), nn.Linear(inside, num_classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        if self.preactivation:
            x = torch.relu(self.bn2(x))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


IMAGENET = {"resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2)),
            "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3)),
            "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
            "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
            "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)}
# Keras keeps 0.99 of a running statistic, which PyTorch calls a momentum of 0.01
NOTEBOOK = {"stem": "notebook", "shortcut": "conv", "bias": True, "same": True,
            "norm": partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)}
NETS = {
    **IMAGENET,
    **{f"resnet{6 * n + 2}": partial(ResNet, stage_sizes=(n, n, n), stage_features=(16, 32, 64), stem="cifar",
                                     shortcut="pad") for n in (3, 5, 7, 9, 18, 200)},
    **{f"preact_{name}": partial(net, preactivation=True) for name, net in IMAGENET.items()},
    "plain18": partial(IMAGENET["resnet18"], shortcut="none"),
    "plain34": partial(IMAGENET["resnet34"], shortcut="none"),
    "resnext50_32x4d": partial(IMAGENET["resnet50"], groups=32, base_width=4),
    "resnet18_cifar": partial(IMAGENET["resnet18"], **NOTEBOOK),
    "resnet34_cifar": partial(IMAGENET["resnet34"], **NOTEBOOK),
}
