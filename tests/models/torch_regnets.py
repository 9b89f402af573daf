"""RegNet, with torchvision's names and with the textbook's, and MobileNet with timm's, in PyTorch at any width."""
from functools import partial

import torch
from torch import nn

from tests.models.torch_resnets import NORMS
from tests.models.torch_textbook import wide


class Block(nn.Module):
    """Torchvision's block: `f` has the layers a, b and c, each a convolution with its normalisation."""

    def __init__(self, inside, outside, groups, width, stride, unit):
        super().__init__()
        between = groups * width
        self.proj = None if (inside, stride) == (outside, 1) else unit(inside, outside, 1, stride)
        self.f = nn.Sequential()
        self.f.a, self.f.b = unit(inside, between, 1), unit(between, between, 3, stride, groups)
        self.f.c = unit(between, outside, 1)

    def forward(self, x):
        y = torch.relu(self.f.b(torch.relu(self.f.a(x))))
        return torch.relu(self.f.c(y) + (self.proj(x) if self.proj else x))


class RegNet(nn.Module):
    """Torchvision's RegNetX; the number of groups is that of the full width."""

    def __init__(self, num_classes, in_channels, stage_sizes, stage_features, group_width, width=1.0, norm="batch",
                 stem="imagenet", dropout_rate=0.0):
        super().__init__()

        def unit(inside, outside, kernel_size, stride=1, groups=1):
            return nn.Sequential(nn.Conv2d(inside, outside, kernel_size, stride, kernel_size // 2, groups=groups,
                                           bias=norm == "none"), NORMS[norm](outside))

        inside = wide(32, width)
        self.stem = unit(in_channels, inside, 3, 2 if stem == "imagenet" else 1)
        self.trunk_output = nn.Sequential()
        for i, (size, features) in enumerate(zip(stage_sizes, stage_features, strict=True), start=1):
            stage, outside = nn.Sequential(), wide(features, width)
            for j in range(size):
                stage.add_module(f"block{i}-{j}", Block(inside, outside, features // group_width,
                                                        wide(group_width, width), 1 if j else 2, unit))
                inside = outside
            self.trunk_output.add_module(f"block{i}", stage)
        self.dropout, self.fc = nn.Dropout(dropout_rate), nn.Linear(inside, num_classes)

    def forward(self, x):
        x = self.trunk_output(torch.relu(self.stem(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


class TextbookBlock(nn.Module):
    """The textbook's block, with biases; the first of a stage has a fourth convolution for its shortcut."""

    def __init__(self, inside, outside, groups, width, first):
        super().__init__()
        between, stride = groups * width, 2 if first else 1
        self.conv1, self.bn1 = nn.Conv2d(inside, between, 1), nn.BatchNorm2d(between)
        self.conv2, self.bn2 = nn.Conv2d(between, between, 3, stride, 1, groups=groups), nn.BatchNorm2d(between)
        self.conv3, self.bn3 = nn.Conv2d(between, outside, 1), nn.BatchNorm2d(outside)
        self.conv4 = self.bn4 = None
        if first:
            self.conv4, self.bn4 = nn.Conv2d(inside, outside, 1, 2), nn.BatchNorm2d(outside)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (self.bn4(self.conv4(x)) if self.conv4 else x))


def textbook_regnet(num_classes, in_channels, width=1.0, stage_sizes=(4, 6), stage_features=(32, 80)):
    inside = wide(32, width)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(in_channels, inside, 3, 2, 1), nn.BatchNorm2d(inside), nn.ReLU()))
    for i, (size, features) in enumerate(zip(stage_sizes, stage_features, strict=True), start=1):
        blocks = []
        for j in range(size):
            blocks.append(TextbookBlock(inside, wide(features, width), features // 16, wide(16, width), j == 0))
            inside = wide(features, width)
        net.add_module(f"stage{i}", nn.Sequential(*blocks))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, num_classes)))
    return net


class Separable(nn.Module):
    def __init__(self, inside, outside, stride, bias, norm, activation):
        super().__init__()
        self.conv_dw, self.bn1 = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=bias), norm(inside)
        self.conv_pw, self.bn2 = nn.Conv2d(inside, outside, 1, bias=bias), norm(outside)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.bn1(self.conv_dw(x)))
        return self.activation(self.bn2(self.conv_pw(x)))


class MobileNet(nn.Module):
    """MobileNet row by row of the paper's table 1: (channels, stride) of each block, in stages for the names."""
    TABLE = (((64, 1),), ((128, 2), (128, 1)), ((256, 2), (256, 1)), ((512, 2), *((512, 1),) * 5),
             ((1024, 2), (1024, 1)))

    def __init__(self, num_classes, in_channels, width=1.0, norm="batch", stem="imagenet", dropout_rate=0.0,
                 activation="relu", table=TABLE):
        super().__init__()
        bias, norm, inside = norm == "none", NORMS[norm], wide(32, width)
        self.activation = {"relu": nn.ReLU(), "relu6": nn.ReLU6()}[activation]
        self.conv_stem = nn.Conv2d(in_channels, inside, 3, 2 if stem == "imagenet" else 1, 1, bias=bias)
        self.bn1, stages = norm(inside), []
        for rows in table:
            blocks = []
            for features, stride in rows:
                blocks.append(Separable(inside, wide(features, width), stride, bias, norm, self.activation))
                inside = wide(features, width)
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.global_pool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout_rate)
        self.classifier = nn.Linear(inside, num_classes)

    def forward(self, x):
        x = self.blocks(self.activation(self.bn1(self.conv_stem(x))))
        return self.classifier(self.dropout(torch.flatten(self.global_pool(x), 1)))


def mobilenet(num_classes, in_channels, stage_sizes=(1, 2, 2, 6, 2), stage_features=(64, 128, 256, 512, 1024),
              **options):
    """Return a MobileNet; by default its stages are those of the table."""
    table = tuple(tuple((features, 2 if i and not j else 1) for j in range(size))
                  for i, (size, features) in enumerate(zip(stage_sizes, stage_features, strict=True)))
    assert (stage_sizes, stage_features) != ((1, 2, 2, 6, 2), (64, 128, 256, 512, 1024)) or table == MobileNet.TABLE
    return MobileNet(num_classes, in_channels, table=table, **options)


NETS = {
    "mobilenet_v1": mobilenet,
    "regnet_x_3_2gf": partial(RegNet, stage_sizes=(2, 6, 15, 2), stage_features=(96, 192, 432, 1008), group_width=48),
    "regnetx32_d2l": textbook_regnet,
}
