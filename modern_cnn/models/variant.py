"""The record of a named network, from which everything that lists the networks is derived."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn


@dataclass(frozen=True)
class Variant:
    """A named network: a class with some of its fields set, and how it was published.

    Attributes:
      network: the class.
      options: the fields that differ from the defaults of the class.
      image_shape: (H, W, C) of the images that the network was published for. Most networks take other sizes too.
      num_classes: the number of classes that it was published for.
      origin: whose definition it is, in the words of the tables in docs/.
      torchvision: whether torchvision publishes weights of it.
    """
    network: type[nn.Module]
    options: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int
    origin: str
    torchvision: bool = False
