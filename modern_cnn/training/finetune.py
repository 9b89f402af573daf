"""Starting from the weights of another run: a new head, parameters that stay as they are, a rate of the head's own.

The head is every parameter whose shape depends on the number of classes; the rest is the backbone.
"""
import difflib
import fnmatch
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn.data import sources
from modern_cnn.errors import UserError
from modern_cnn.runs import load as evaluation
from modern_cnn.runs import workdir

log = logging.getLogger(__name__)

BACKBONE = "backbone"  # as a pattern: all but the head


def check(section) -> None:
    """Raises UserError for a config's `finetune` section that has no workdir to start from, but other fields set."""
    if not section.workdir:
        for field, default in (("freeze", ""), ("freeze_statistics", False), ("head_multiplier", 1.0)):
            if section[field] != default:
                raise UserError(f"config.finetune.{field}={section[field]!r} is for a run that starts from another's "
                                "weights: --config.finetune.workdir=DIR")


def _shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """'collection/path' -> shape of all that `init` makes."""
    images = jnp.zeros((1, *image_shape))
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    return {path: leaf.shape for path, leaf in flatten_dict(made, sep="/").items()}


def head_of(module: nn.Module, image_shape: tuple[int, int, int]) -> set[str]:
    """Paths of the parameters of the head, 'dense/kernel': those that one class more would change."""
    more = _shapes(module.clone(num_classes=module.num_classes + 1), image_shape)
    return {path.removeprefix("params/") for path, shape in _shapes(module, image_shape).items()
            if more.get(path) != shape and path.startswith("params/")}


def frozen_of(freeze: str, paths: Iterable[str], head: set[str]) -> set[str]:
    """Which parameters config.finetune.freeze names.

    Args:
      freeze: patterns with commas between them: 'conv1/*,stage1_*', or BACKBONE. '*' is any text, '/' too.
      paths: of all parameters.
    Raises:
      UserError: a pattern that matches nothing, with the closest paths; or nothing is left to learn.
    """
    paths, frozen = list(paths), set()
    for pattern in filter(None, map(str.strip, freeze.split(","))):
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
    """Updates of -0, the one number that added to any other leaves all of its bits (0 would turn -0 into 0)."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))


def _only(paths: set[str], transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    def mask(tree):
        return unflatten_dict({path: "/".join(path) in paths for path in flatten_dict(tree)})

    return optax.masked(transformation, mask)


def adapt(section, module: nn.Module, optimizer: optax.GradientTransformation,
          image_shape: tuple[int, int, int]) -> tuple[nn.Module, optax.GradientTransformation]:
    """The network and the optimiser of a run as its config's `finetune` section wants them.

    Frozen parameters keep every bit: the optimiser, its weight decay and momentum included, never sees them. The head's
    steps are `head_multiplier` times as long. With `freeze_statistics` batch norm uses the running mean and variance in
    training too, and leaves them alone.

    Raises:
      UserError: see `frozen_of`; or there is no batch norm to freeze.
    """
    if not section.workdir:
        return module, optimizer
    head = head_of(module, image_shape)
    shapes = _shapes(module, image_shape)
    paths = [path.removeprefix("params/") for path in shapes if path.startswith("params/")]
    frozen = frozen_of(section.freeze, paths, head)
    if section.freeze_statistics:
        if not any(path.startswith("batch_stats/") for path in shapes):
            raise UserError("config.finetune.freeze_statistics=True, but the network has no batch norm")
        module = module.clone(norm="frozen")
    return module, optax.chain(_only(set(paths) - frozen, optimizer), _only(frozen, _hold()),
                               _only(head - frozen, optax.scale(section.head_multiplier)))


def _digest(variables: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(variables, sep="/").items()):
        digest.update(f"{path} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def pretrained(config, module: nn.Module, spec: sources.Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables to start from, without the head where it is to be new; where they are from, for run.json).

    The head is kept where the classes are the same ones: the same names, and not mere numbers of another set.

    Args:
      config: whose finetune.workdir is a run, trained or imported.
      module: the network of this run.
      spec: of this run's data.
    Raises:
      UserError: no run there, another network, or shapes that do not fit: other channels, a size that dense layers see.
    """
    source = config.finetune.workdir
    theirs, _ = workdir.read_run(Path(source))
    if theirs["model"]["name"] != config.model.name:
        raise UserError(f"config.finetune.workdir={source} holds the network {theirs['model']['name']!r}, and this run "
                        f"trains config.model.name={config.model.name!r}")
    _, variables, run, step = evaluation.load_run(source)
    data = run["data"]
    head = head_of(module, spec.image_shape)
    numbers = spec.class_names == tuple(map(str, range(spec.num_classes)))
    same = spec.class_names == tuple(data["class_names"]) and (not numbers or spec.source == data["source"])
    leaves = {path: leaf for path, leaf in flatten_dict(dict(variables), sep="/").items()
              if same or path.removeprefix("params/") not in head}
    wanted = {path: shape for path, shape in _shapes(module, spec.image_shape).items()
              if same or path.removeprefix("params/") not in head}
    wrong = [f"{path} is {leaves[path].shape if path in leaves else 'missing'} there, {wanted.get(path, 'none')} here"
             for path in sorted(wanted | leaves) if path not in leaves or leaves[path].shape != wanted.get(path)]
    if wrong:
        there, here = ("x".join(map(str, shape)) for shape in (data["image_shape"], spec.image_shape))
        raise UserError(f"the weights in {source}, of {there} images, do not fit this network and its {here} images: "
                        f"{wrong[0]}" + (f", and {len(wrong) - 1} more" if wrong[1:] else "") + "; options of the "
                        "network, channels, and where there are dense layers config.data.image_size must be the same")
    if theirs["data"]["normalize"] != config.data.normalize:
        log.warning("the weights in %s saw images normalised as %r, this run's are as %r: --config.data.normalize=%s "
                    "would keep them alike", source, theirs["data"]["normalize"], config.data.normalize,
                    theirs["data"]["normalize"])
    origin = {"workdir": str(source), "step": step, "digest": _digest(variables), "source": data["source"],
              "head": "kept" if same else "new"}
    log.info("starting from step %d of %s (%s), with %s", step, source, data["source"] or "imported weights",
             "its head: the classes are the same" if same else f"a new head: {', '.join(sorted(head))}")
    return unflatten_dict(leaves, sep="/"), {"finetuned_from": origin}
