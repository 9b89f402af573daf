"""What the networks share, and the record of a named one, from which everything that lists the networks is derived."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from modern_cnn.errors import UserError
from modern_cnn.initializers import initializers
from modern_cnn.layers import BatchNorm, Conv, Dense, normalization

LARGEST = 10**6  # of the numbers among the networks' options
Constructor = Callable[..., nn.Module]  # blocks call `conv(features, kernel_size, ..., name=...)` and `norm(name=...)`
STEMS = {"imagenet": {"kernel_size": 7, "strides": 2, "padding": 3}, "cifar": {"kernel_size": 3, "padding": 1}}
SMALL_STEMS = {"imagenet": {"kernel_size": 3, "strides": 2, "padding": 1}, "cifar": STEMS["cifar"]}
EVAL_NORM = partial(BatchNorm, train=False)  # for a block alone; to train it, norm=partial(BatchNorm, train=True)


def stages(sizes: Sequence[int], features: Sequence[int]) -> list[tuple[int, int]]:
    """Return (size, features) of each stage. Raise UserError if there are not as many of both."""
    if len(sizes) != len(features):
        raise UserError(f"stage_sizes={tuple(sizes)} and stage_features={tuple(features)} must be equally long")
    return list(zip(sizes, features, strict=True))


def run_stage(x: jax.Array, block: Constructor, size: int, *, strides: int, name: str, scan: bool,
              **first: Any) -> jax.Array:
    """Return x after `size` blocks, `block(name=...)`: the first has `strides` and the fields `first`.

    With `scan` those after the first are a loop over one block, whose parameters are stacked along a first axis. Call
    it inside a compact method.
    """
    x = block(strides=strides, name=f"{name}_block1", **first)(x)
    if scan and size > 1:
        loop = nn.scan(lambda body, x, _: (body(x), None), length=size - 1, split_rngs={"params": True},
                       variable_axes={"params": 0, "batch_stats": 0})
        return loop(block(name=f"{name}_blocks"), x, None)[0]
    for i in range(2, size + 1):
        x = block(name=f"{name}_block{i}")(x)
    return x


@dataclass(frozen=True)
class Variant:
    """A named network: a class with some of its fields set, and how it was published.

    Attributes:
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


class ConvNet(nn.Module, kw_only=True):
    """A convolutional network. Call: images [N, H, W, C] float -> logits [N, num_classes].

    Before dense layers, maps are flattened in the order height, width, channels; in PyTorch's, channels are first.

    Attributes:
      width: factor of the convolutions' channels.
      norm, unbiased, axis_name: name of the normalisation, and fields of `BatchNorm`.
      initializer: a key of `initializers.INITIALIZERS`.
      dtype: of the computations; parameters are float32.

    `limits` are the least and the greatest value of options for which they are not 1, of whole numbers, or 0, of
    others, and LARGEST.
    """
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    num_classes: int = 10
    dropout_rate: float = 0.0
    width: float = 1.0
    norm: str = "none"
    unbiased: bool = True
    axis_name: str | None = None
    initializer: str = "torch"
    dtype: jnp.dtype | None = None

    def constructors(self, train: bool, **options: Any) -> tuple[Constructor, Constructor, Constructor]:
        """Return those of convolutions, dense layers and normalisations; `options` are fields of the last."""
        conv = partial(Conv, dtype=self.dtype, **initializers(self.initializer, "conv"))
        dense = partial(Dense, dtype=self.dtype, **initializers(self.initializer, "dense"))
        norm = normalization(self.norm, train=train, unbiased=self.unbiased, axis_name=self.axis_name, dtype=self.dtype,
                             **options)
        return conv, dense, norm
