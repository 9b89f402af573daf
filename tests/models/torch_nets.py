"""Torchvision's networks and their relatives, written again in PyTorch with torchvision's names, at any width.

`torch_net` finds them, and the textbook's, by our names. Weights are PyTorch's own: the tests fill in others.
"""
from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from tests.models import torch_regnets, torch_resnets, torch_textbook
from tests.models.torch_textbook import wide


def chain(**layers):
    """Return a Sequential with names."""
    return nn.Sequential(OrderedDict(layers))


def norm_after(features, norm):
    return {"batch": [nn.BatchNorm2d(features)], "none": []}[norm]


class Classifier(nn.Module):
    """A network of `features`, `avgpool`, flattening and `classifier`."""

    def __init__(self, features, avgpool, classifier):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, avgpool, classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(num_classes, in_channels, width=1.0, hidden=(4096, 4096), norm="none"):
    a, b, c, d, e = (wide(n, width) for n in (64, 192, 384, 256, 256))
    features = nn.Sequential(
        nn.Conv2d(in_channels, a, 11, 4, 2), *norm_after(a, norm), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), *norm_after(b, norm), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), *norm_after(c, norm), nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1), *norm_after(d, norm), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), *norm_after(e, norm), nn.ReLU(), nn.MaxPool2d(3, 2))
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(36 * e, hidden[0]), nn.ReLU(), nn.Dropout(), nn.Linear(*hidden), nn.ReLU(),
        nn.Linear(hidden[1], num_classes))
    return Classifier(features, nn.AdaptiveAvgPool2d(6), classifier)


def alexnet_2012(num_classes, in_channels, width=1.0, hidden=(4096, 4096), size=227):
    a, b, c, d, e = (wide(n, width) for n in (96, 256, 384, 384, 256))

    def normalise_and_pool():
        return nn.Sequential(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0), nn.MaxPool2d(3, 2))

    features = nn.Sequential(
        nn.Conv2d(in_channels, a, 11, 4), nn.ReLU(), normalise_and_pool(),
        nn.Conv2d(a, b, 5, padding=2, groups=2), nn.ReLU(), normalise_and_pool(),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2))
    flat = features(torch.zeros(1, in_channels, size, size)).numel()
    classifier = nn.Sequential(
        nn.Identity(), nn.Linear(flat, hidden[0]), nn.ReLU(), nn.Dropout(), nn.Linear(*hidden),
        nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Linear(hidden[1], num_classes))
    return Classifier(features, nn.Identity(), classifier)


def vgg(num_classes, in_channels, stage_sizes, width=1.0, hidden=(4096, 4096), norm="none"):
    layers, inside = [], in_channels
    for size, features in zip(stage_sizes, (64, 128, 256, 512, 512), strict=True):
        for _ in range(size):
            outside = wide(features, width)
            layers += [nn.Conv2d(inside, outside, 3, padding=1), *norm_after(outside, norm), nn.ReLU()]
            inside = outside
        layers.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        nn.Linear(49 * inside, hidden[0]), nn.ReLU(), nn.Dropout(), nn.Linear(*hidden), nn.ReLU(), nn.Dropout(),
        nn.Linear(hidden[1], num_classes))
    return Classifier(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7), classifier)


class NotebookVGG(nn.Module):
    """The TensorFlow text's VGG-13 for 32x32 pixels; with `skip` the input of the last stage is added before its end.

    The names are torchvision's: the convolutions of VGG-13 are features 0, 2, 5, 7, 10, 12, 15, 17, 20 and 22.
    """

    def __init__(self, num_classes, in_channels, width=1.0, skip=False):
        super().__init__()
        self.features = vgg(num_classes, in_channels, VGG[13], width, (1, 1)).features
        self.classifier = nn.Sequential(
            nn.Linear(wide(512, width), 256), nn.ReLU(), nn.Identity(), nn.Linear(256, 128), nn.ReLU(), nn.Identity(),
            nn.Linear(128, num_classes))
        self.skip = skip

    def forward(self, x):
        before, last, after = self.features[:20], self.features[20:23], self.features[23:]
        x = before(x)
        x = after(last(x) + x if self.skip else last(x))
        return self.classifier(torch.flatten(x, 1))


class Unit(nn.Module):
    """GoogLeNet's convolution: torchvision's has batch norm and no bias, the paper's has a bias and no batch norm."""

    def __init__(self, inside, outside, kernel_size, batch_norm, **options):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel_size, bias=not batch_norm, **options)
        self.bn = nn.BatchNorm2d(outside, eps=0.001) if batch_norm else nn.Identity()

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inside, unit, kernel_size, one, reduce3, three, reduce5, five, projection):
        super().__init__()
        self.branch1 = unit(inside, one, 1)
        self.branch2 = nn.Sequential(unit(inside, reduce3, 1), unit(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(unit(inside, reduce5, 1),
                                     unit(reduce5, five, kernel_size, padding=kernel_size // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(inside, projection, 1))
        self.out_channels = one + three + five + projection

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    def __init__(self, inside, unit, pool, pixels, features, num_classes):
        super().__init__()
        self.pool, self.conv = pool, unit(inside, features, 1)
        self.fc1, self.fc2 = nn.Linear(pixels * features, 1024), nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x):
        x = torch.flatten(self.conv(self.pool(x)), 1)
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


INCEPTIONS = {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
              "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
              "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
              "5b": (384, 192, 384, 48, 128, 128)}


class GoogLeNet(nn.Module):
    """torchvision's GoogLeNet, or the paper's (`original`), for images of `size` pixels a side.

    In training it returns the logits and those of the two auxiliary heads.
    """

    def __init__(self, num_classes, in_channels, width=1.0, original=False, aux_logits=True, size=224):
        super().__init__()
        unit = partial(Unit, batch_norm=not original)
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        a, b = wide(64, width), wide(192, width)
        self.conv1, self.conv2 = unit(in_channels, a, 7, stride=2, padding=3), unit(a, a, 1)
        self.conv3 = unit(a, b, 3, padding=1)
        self.pool1 = self.pool2 = self.pool3 = pool
        self.pool4 = pool if original else nn.MaxPool2d(2, 2, ceil_mode=True)
        self.lrn = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if original else nn.Identity()
        inside, widths = b, {}
        for label, features in INCEPTIONS.items():
            block = Inception(inside, unit, 5 if original else 3, *(wide(n, width) for n in features))
            setattr(self, f"inception{label}", block)
            inside = widths[label] = block.out_channels
        aux_pool = nn.AvgPool2d(5, 3) if original else nn.AdaptiveAvgPool2d(4)
        self.aux1 = self.aux2 = None
        if aux_logits:
            pixels = aux_pool(pool(pool(pool(torch.zeros(1, 1, -(-size // 2), -(-size // 2)))))).numel()
            head = partial(Auxiliary, unit=unit, pool=aux_pool, pixels=pixels, features=wide(128, width),
                           num_classes=num_classes)
            self.aux1, self.aux2 = (head(widths[label]) if label in widths else None for label in ("4a", "4d"))
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.4 if original else 0.2)
        self.fc = nn.Linear(inside, num_classes)

    def forward(self, x):
        x = self.lrn(self.pool1(self.conv1(x)))
        x = self.pool2(self.lrn(self.conv3(self.conv2(x))))
        stage, sides = "3", []
        for name, block in self.named_children():
            if not name.startswith("inception"):
                continue
            if name[-2] != stage:
                x, stage = (self.pool3 if stage == "3" else self.pool4)(x), name[-2]
            x = block(x)
            if self.training and (side := {"4a": self.aux1, "4d": self.aux2}.get(name[-2:])):
                sides.append(side(x))
        logits = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return (logits, *sides) if sides else logits


class DenseBlock(nn.Module):
    def __init__(self, inside, layers, growth, dropout_rate):
        super().__init__()
        for i in range(1, layers + 1):
            self.add_module(f"denselayer{i}", chain(
                norm1=nn.BatchNorm2d(inside), relu1=nn.ReLU(), conv1=nn.Conv2d(inside, 4 * growth, 1, bias=False),
                norm2=nn.BatchNorm2d(4 * growth), relu2=nn.ReLU(),
                conv2=nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False), dropout=nn.Dropout(dropout_rate)))
            inside += growth
        self.out_channels = inside

    def forward(self, x):
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet(num_classes, in_channels, block_sizes, width=1.0, growth=32, stem=64, small=False, dropout_rate=0.0,
             compression=0.5):
    """Return torchvision's DenseNet, or the paper's for CIFAR (`small`), whose stem is one 3x3 convolution."""
    growth, inside = wide(growth, width), wide(stem, width)
    if small:
        layers = {"conv0": nn.Conv2d(in_channels, inside, 3, padding=1, bias=False)}
    else:
        layers = {"conv0": nn.Conv2d(in_channels, inside, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(inside),
                  "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
    for i, size in enumerate(block_sizes, start=1):
        layers[f"denseblock{i}"] = block = DenseBlock(inside, size, growth, dropout_rate)
        inside = block.out_channels
        if i < len(block_sizes):
            kept = int(inside * compression)
            layers[f"transition{i}"] = chain(
                norm=nn.BatchNorm2d(inside), relu=nn.ReLU(), conv=nn.Conv2d(inside, kept, 1, bias=False),
                pool=nn.AvgPool2d(2))
            inside = kept
    layers[f"norm{len(block_sizes) + 1}"] = nn.BatchNorm2d(inside)
    return Classifier(chain(**layers, relu=nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Linear(inside, num_classes))


class Shift(nn.BatchNorm2d):
    """Batch normalisation with a bias and no scale."""

    def __init__(self, features):
        super().__init__(features, eps=1e-12, momentum=0.4)
        self.weight = None


class AirbenchBlock(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm1, self.norm2 = Shift(outside), Shift(outside)

    def forward(self, x):
        x = nn.functional.gelu(self.norm1(nn.functional.max_pool2d(self.conv1(x), 2)))
        return nn.functional.gelu(self.norm2(self.conv2(x)))


class Whiten(nn.Module):
    """A 2x2 convolution whose kernel is a buffer."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.zeros(8 * channels, channels, 2, 2))
        self.bias = nn.Parameter(torch.zeros(8 * channels))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, self.bias)


class Airbench(nn.Module):
    """The network of airbench94, for images of `size` pixels a side."""

    def __init__(self, num_classes, in_channels, width=1.0, size=32):
        super().__init__()
        a, b, c = (wide(n, width) for n in (64, 256, 256))
        self.whiten = Whiten(in_channels)
        self.layers = nn.Sequential(nn.GELU(), AirbenchBlock(8 * in_channels, a), AirbenchBlock(a, b),
                                    AirbenchBlock(b, c), nn.MaxPool2d(3))
        side = (size - 1) // 8 // 3
        self.head = nn.Linear(c * side * side, num_classes, bias=False)

    def forward(self, x):
        x = self.layers(self.whiten(x)).flatten(1)
        return self.head(x) / x.shape[1]


VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
TORCH_NETS = {
    **torch_textbook.NETS, **torch_resnets.NETS, **torch_regnets.NETS,
    "alexnet": alexnet, "alexnet_2012": alexnet_2012,
    **{f"vgg{depth}": partial(vgg, stage_sizes=sizes) for depth, sizes in VGG.items()},
    **{f"vgg{depth}_bn": partial(vgg, stage_sizes=sizes, norm="batch") for depth, sizes in VGG.items()},
    "vgg13_cifar": NotebookVGG,
    "googlenet": GoogLeNet, "googlenet_2014": partial(GoogLeNet, original=True),
    "densenet121": partial(densenet, block_sizes=(6, 12, 24, 16)),
    "densenet161": partial(densenet, block_sizes=(6, 12, 36, 24), growth=48, stem=96),
    "densenet169": partial(densenet, block_sizes=(6, 12, 32, 32)),
    "densenet201": partial(densenet, block_sizes=(6, 12, 48, 32)),
    "densenet_bc_100_12": partial(densenet, block_sizes=(16, 16, 16), growth=12, stem=24, small=True),
    "airbench94": Airbench,
}


def torch_net(name, num_classes=10, in_channels=3, **options):
    """Return the PyTorch network that ours of this name must equal; options are its function's."""
    return TORCH_NETS[name](num_classes, in_channels, **options)
