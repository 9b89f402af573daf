"""Fine-tuning: which parameters are the head, which do not change, and a learning rate of the head's own.

The head is every parameter whose shape depends on the number of classes; the rest is the backbone.
"""
import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn.errors import UserError
from modern_cnn.settings import Finetune

BACKBONE = "backbone"  # as a pattern: all but the head


def shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Return {'collection/path': shape} of all variables."""
    images = jnp.zeros((1, *image_shape))
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    flat: dict[str, Any] = flatten_dict(made, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def head_paths(module: Any, image_shape: tuple[int, int, int]) -> set[str]:
    """Return the paths of the head's parameters, 'dense/kernel': those that one class more would change."""
    more = shapes(module.clone(num_classes=module.num_classes + 1), image_shape)
    return {path.removeprefix("params/") for path, shape in shapes(module, image_shape).items()
            if more.get(path) != shape and path.startswith("params/")}


def features(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    """Return what the head of a network takes in, float32 [N, D], for images [N, H, W, C] normalised as in training.

    The network is in evaluation mode. Of a head that takes a map, a convolution, it is the mean over the pixels.
    """
    height, width, channels = images.shape[1:]
    heads = {path.rpartition("/")[0] for path in head_paths(module, (height, width, channels))}
    found = []  # auxiliary heads are not called in evaluation, and what follows the head's first layer comes later

    def note(call, args, kwargs, context):
        if "/".join(context.module.path) in heads:
            found.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        module.apply(variables, images, train=False)
    taken = found[0].astype(jnp.float32)
    return taken.mean(axis=(1, 2)) if taken.ndim == 4 else taken


def frozen_paths(freeze: str, paths: Iterable[str], head: set[str]) -> set[str]:
    """Return the parameters, of all `paths`, that config.finetune.freeze names.

    `freeze` is patterns with commas between them, 'conv1/*,stage1_*', or BACKBONE; '*' is any text, also with '/'.
    Raise UserError for a pattern that matches nothing, with the closest paths, or if nothing is left to learn.
    """
    paths, frozen, patterns = list(paths), set(), [*filter(None, map(str.strip, freeze.split(",")))]
    if freeze and not patterns:
        raise UserError(f"config.finetune.freeze={freeze!r} names no parameter")
    for pattern in patterns:
        matched = set(paths) - head if pattern == BACKBONE else set(fnmatch.filter(paths, pattern))
        if not matched:
            close = difflib.get_close_matches(pattern, paths, n=3, cutoff=0)
            raise UserError(f"config.finetune.freeze: {pattern!r} matches no parameter; the closest are "
                            f"{', '.join(close)}, and {BACKBONE!r} is all but the head")
        frozen |= matched
    if frozen >= set(paths):
        raise UserError(f"config.finetune.freeze={freeze!r} leaves nothing to learn; {BACKBONE!r} is all but the head")
    return frozen


def _hold() -> optax.GradientTransformation:
    """Return a transformation whose updates are -0: added to a number, that leaves all of its bits.

    The updates of `optax.set_to_zero` are 0, which turns a parameter of -0 into 0.
    """
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))


def _only(paths: set[str], transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the transformation for these parameters alone."""
    def mask(tree):
        return unflatten_dict({path: "/".join(path) in paths for path in flatten_dict(tree)})

    return optax.masked(transformation, mask)


def adapt(section: Finetune, module: nn.Module, optimizer: optax.GradientTransformation,
          image_shape: tuple[int, int, int]) -> tuple[nn.Module, optax.GradientTransformation]:
    """Return network and optimiser as the `finetune` section of a config wants them.

    Frozen parameters keep every bit: the optimiser, with its weight decay and momentum, never sees them. The steps of
    the head are `head_multiplier` times as long. With `freeze_statistics` batch norm uses the running mean and variance
    in training too, and does not change them. Raise UserError as `frozen_paths` does, or without batch norm to freeze.
    """
    if not section.workdir:
        return module, optimizer
    head, all_shapes = head_paths(module, image_shape), shapes(module, image_shape)
    paths = [path.removeprefix("params/") for path in all_shapes if path.startswith("params/")]
    frozen = frozen_paths(section.freeze, paths, head)
    if section.head_multiplier != 1 and head <= frozen:
        raise UserError(f"config.finetune.head_multiplier={section.head_multiplier} does nothing: config.finetune."
                        f"freeze={section.freeze!r} freezes the head")
    if section.head_multiplier == 0 and frozen >= set(paths) - head:
        raise UserError(f"config.finetune.freeze={section.freeze!r} and head_multiplier=0 leave nothing to learn")
    if section.freeze_statistics:
        if not any(path.endswith("/mean") for path in all_shapes):
            raise UserError("config.finetune.freeze_statistics=True, but the network has no batch norm")
        module = module.clone(norm="frozen")
    # Masks instead of optax.multi_transform, for `_hold` and because checkpoints hold this state.
    return module, optax.chain(_only(set(paths) - frozen, optimizer), _only(frozen, _hold()),
                               _only(head - frozen, optax.scale(section.head_multiplier)))
