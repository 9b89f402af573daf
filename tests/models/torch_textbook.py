"""The networks of the two texts, and NiN, nested as in the textbook's PyTorch code, with numbers as names.

Dive into Deep Learning, chapters 6 and 7; the perceptron and the LeNets with ReLU are the TensorFlow text's.
"""
from functools import partial

import torch
from torch import nn


def wide(channels, width):
    """Return the channels of a network `width` times as wide."""
    return max(1, round(channels * width))


def dropped(activation, rate):
    """Return an activation with dropout in one place of a Sequential, so that the text's numbers of the layers stay."""
    return nn.Sequential(activation, nn.Dropout(rate))


def perceptron(num_classes, in_channels, dropout_rate=0.0):
    layers = [nn.Flatten()]
    for inside in (784 * in_channels, 256, 256):
        layers += [nn.Linear(inside, 256), dropped(nn.ReLU(), dropout_rate)]
    return nn.Sequential(*layers, nn.Linear(256, num_classes))


def lenet(num_classes, in_channels, padding=2, features=400, norm=False, dropout_rate=0.0, activation="sigmoid"):
    """Return the textbook's LeNet: 5x5 convolutions, sigmoid, average pooling."""
    function = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[activation]

    def block(layer, size, normalise, *after):
        activate = function() if after else dropped(function(), dropout_rate)
        return [layer, *([normalise(size)] if norm else []), activate, *after]

    return nn.Sequential(
        *block(nn.Conv2d(in_channels, 6, 5, padding=padding), 6, nn.BatchNorm2d, nn.AvgPool2d(2)),
        *block(nn.Conv2d(6, 16, 5), 16, nn.BatchNorm2d, nn.AvgPool2d(2)), nn.Flatten(),
        *block(nn.Linear(features, 120), 120, nn.BatchNorm1d), *block(nn.Linear(120, 84), 84, nn.BatchNorm1d),
        nn.Linear(84, num_classes))


def lenet_relu(num_classes, in_channels, norm=False, dropout_rate=0.0):
    """Return the TensorFlow text's LeNet: 3x3 convolutions, max-pooling, ReLU; Keras's epsilon and decay."""
    def normalise(size):
        return [nn.BatchNorm2d(size, eps=1e-3, momentum=0.01)] if norm else []

    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), *normalise(6), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 16, 3), *normalise(16), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(400, 120), dropped(nn.ReLU(), dropout_rate), nn.Linear(120, 84), dropped(nn.ReLU(), dropout_rate),
        nn.Linear(84, num_classes))


def dense_layers(features, in_channels, size, hidden, num_classes):
    """Return flattening and three dense layers, after `features` of images of `size` pixels a side."""
    flat = nn.Sequential(*features)(torch.zeros(1, in_channels, size, size)).numel()
    return [nn.Flatten(), nn.Linear(flat, hidden[0]), nn.ReLU(), nn.Dropout(0.5), nn.Linear(*hidden), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(hidden[1], num_classes)]


def alexnet(num_classes, in_channels, width=1.0, hidden=(4096, 4096), size=224):
    a, b, c, d, e = (wide(n, width) for n in (96, 256, 384, 384, 256))
    features = [nn.Conv2d(in_channels, a, 11, 4, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
                nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*features, *dense_layers(features, in_channels, size, hidden, num_classes))


def vgg11(num_classes, in_channels, width=1.0, hidden=(4096, 4096), size=224):
    blocks, inside = [], in_channels
    for convolutions, features in (1, 64), (1, 128), (2, 256), (2, 512), (2, 512):
        layers = []
        for _ in range(convolutions):
            layers += [nn.Conv2d(inside, wide(features, width), 3, padding=1), nn.ReLU()]
            inside = wide(features, width)
        blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2, 2)))
    return nn.Sequential(*blocks, *dense_layers(blocks, in_channels, size, hidden, num_classes))


def nin_block(inside, features, norm="none", **first):
    layers = []
    for i, outside in enumerate(features):
        layers.append(nn.Conv2d(inside, outside, **first) if i == 0 else nn.Conv2d(inside, outside, 1))
        layers += [*([nn.BatchNorm2d(outside)] if norm == "batch" else []), nn.ReLU()]
        inside = outside
    return nn.Sequential(*layers)


def nin(num_classes, in_channels, width=1.0, last=(None, None, None), norm="none", hidden=None, size=99):
    """Return the textbook's NiN, or with `last`, channels of the last block, the authors' for ImageNet.

    With `hidden`, dense layers replace the last block, for images of `size` pixels a side.
    """
    a, b, c = (wide(n, width) for n in (96, 256, 384))
    last = [wide(n, width) if n else num_classes for n in last]
    features = [nin_block(in_channels, (a, a, a), norm, kernel_size=11, stride=4), nn.MaxPool2d(3, 2),
                nin_block(a, (b, b, b), norm, kernel_size=5, padding=2), nn.MaxPool2d(3, 2),
                nin_block(b, (c, c, c), norm, kernel_size=3, padding=1), nn.MaxPool2d(3, 2), nn.Dropout(0.5)]
    if hidden is not None:
        return nn.Sequential(*features, *dense_layers(features, in_channels, size, hidden, num_classes))
    return nn.Sequential(*features, nin_block(c, last, kernel_size=3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def nin_cifar(num_classes, in_channels, width=1.0):
    """Return the authors' NiN for CIFAR-10; in Caffe's pooling the last window may reach beyond the edge."""
    a, b, c = (wide(n, width) for n in (192, 160, 96))
    return nn.Sequential(
        nin_block(in_channels, (a, b, c), kernel_size=5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        nin_block(c, (a, a, a), kernel_size=5, padding=2), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(0.5),
        nin_block(a, (a, a, num_classes), kernel_size=3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Inception(nn.Module):
    def __init__(self, inside, c1, c2, c3, c4):
        super().__init__()
        self.b1_1 = nn.Conv2d(inside, c1, 1)
        self.b2_1, self.b2_2 = nn.Conv2d(inside, c2[0], 1), nn.Conv2d(*c2, 3, padding=1)
        self.b3_1, self.b3_2 = nn.Conv2d(inside, c3[0], 1), nn.Conv2d(*c3, 5, padding=2)
        self.b4_1, self.b4_2 = nn.MaxPool2d(3, 1, 1), nn.Conv2d(inside, c4, 1)

    def forward(self, x):
        branches = (self.b1_1(x), self.b2_2(torch.relu(self.b2_1(x))), self.b3_2(torch.relu(self.b3_1(x))),
                    self.b4_2(self.b4_1(x)))
        return torch.cat([torch.relu(branch) for branch in branches], 1)


# 1x1; 3x3's reduction and 3x3; 5x5's reduction and 5x5; after pooling
INCEPTIONS = (((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
              ((192, (96, 208), (16, 48), 64), (160, (112, 224), (24, 64), 64), (128, (128, 256), (24, 64), 64),
               (112, (144, 288), (32, 64), 64), (256, (160, 320), (32, 128), 128)),
              ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)))


def googlenet(num_classes, in_channels, width=1.0):
    def scale(channels):
        return tuple(map(scale, channels)) if isinstance(channels, tuple) else wide(channels, width)

    a, inside = wide(64, width), wide(192, width)
    stages = [nn.Sequential(nn.Conv2d(in_channels, a, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
              nn.Sequential(nn.Conv2d(a, a, 1), nn.ReLU(), nn.Conv2d(a, inside, 3, padding=1), nn.ReLU(),
                            nn.MaxPool2d(3, 2, 1))]
    ends = ([nn.MaxPool2d(3, 2, 1)], [nn.MaxPool2d(3, 2, 1)], [nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    for blocks, end in zip(INCEPTIONS, ends, strict=True):
        layers = []
        for block in blocks:
            c1, c2, c3, c4 = scale(block)
            layers.append(Inception(inside, c1, c2, c3, c4))
            inside = c1 + c2[1] + c3[1] + c4
        stages.append(nn.Sequential(*layers, *end))
    return nn.Sequential(*stages, nn.Linear(inside, num_classes))


class Residual(nn.Module):
    def __init__(self, inside, features, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, features, 3, stride, 1)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1)
        self.conv3 = nn.Conv2d(inside, features, 1, stride) if project else None
        self.bn1, self.bn2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.conv3(x) if self.conv3 else x))


def resnet18(num_classes, in_channels, width=1.0):
    inside = wide(64, width)
    stages = [nn.Sequential(nn.Conv2d(in_channels, inside, 7, 2, 3), nn.BatchNorm2d(inside), nn.ReLU(),
                            nn.MaxPool2d(3, 2, 1))]
    for i, features in enumerate(wide(n, width) for n in (64, 128, 256, 512)):
        stages.append(nn.Sequential(Residual(inside, features, 2 if i else 1, project=i > 0),
                                    Residual(features, features, 1, project=False)))
        inside = features
    return nn.Sequential(*stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, num_classes)))


class DenseBlock(nn.Module):
    def __init__(self, layers, inside, growth):
        super().__init__()
        self.net = nn.Sequential(*(
            nn.Sequential(nn.BatchNorm2d(inside + i * growth), nn.ReLU(),
                          nn.Conv2d(inside + i * growth, growth, 3, padding=1)) for i in range(layers)))

    def forward(self, x):
        for layer in self.net:
            x = torch.cat((x, layer(x)), 1)
        return x


def densenet(num_classes, in_channels, width=1.0, block_sizes=(4, 4, 4, 4)):
    inside, growth = wide(64, width), wide(32, width)
    layers = [nn.Sequential(nn.Conv2d(in_channels, inside, 7, 2, 3), nn.BatchNorm2d(inside), nn.ReLU(),
                            nn.MaxPool2d(3, 2, 1))]
    for i, size in enumerate(block_sizes, start=1):
        layers.append(DenseBlock(size, inside, growth))
        inside += size * growth
        if i < len(block_sizes):
            layers.append(nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, inside // 2, 1),
                                        nn.AvgPool2d(2, 2)))
            inside //= 2
    return nn.Sequential(*layers, nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                                nn.Flatten(), nn.Linear(inside, num_classes)))


NETS = {
    "mlp": perceptron, "lenet": lenet, "lenet_bn": partial(lenet, padding=0, features=256, norm=True),
    "lenet_relu": lenet_relu, "lenet_relu_bn": partial(lenet_relu, norm=True),
    "alexnet_d2l": alexnet, "vgg11_d2l": vgg11, "nin_d2l": nin, "googlenet_d2l": googlenet,
    "resnet18_d2l": resnet18, "densenet_d2l": densenet,
    "nin_imagenet": partial(nin, last=(1024, 1024, None)), "nin_cifar": nin_cifar,
}
