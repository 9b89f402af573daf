"""Weights from elsewhere as a workdir, which evaluation and every script read like that of a trained run."""
import codecs
import contextlib
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.data.spec import Spec, normalization
from modern_cnn.errors import UserError, some
from modern_cnn.runs import workdir
from modern_cnn.runs.checkpoints import Checkpoints
from modern_cnn.settings import Settings
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)


def read_class_names(path: str | Path) -> list[str]:
    """Return the lines of a text file in UTF-8, UTF-16 with its byte order mark or Latin-1, without blanks around them.

    Empty lines at the end are no names. Raise UserError if the file cannot be read or is no text.
    """
    try:
        data = Path(path).read_bytes()
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            text = data.decode("utf-16" if utf16 else "utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    except OSError as e:
        raise UserError(f"cannot read the names of classes: {e}") from e
    if "\0" in text:
        raise UserError(f"cannot read the names of classes: {path} is no text in UTF-8")
    return [line.strip() for line in re.split(r"\r\n?|\n", text.strip())] if text.strip() else []


def write_run(directory: str | Path, settings: Settings, module: Any, variables: dict[str, Any],
              image_shape: tuple[int, int, int], class_names: Sequence[str], imported: dict[str, str]) -> None:
    """Write config.json, run.json and a checkpoint of step 0 without optimiser state: all of it or nothing.

    The model section of `settings` builds `module`. Its images have `image_shape` (H, W, C). `class_names` are those of
    every class, in order; empty: the numbers. `imported` says in run.json where the weights come from. Raise UserError
    if the directory is not empty or cannot be written, a weight is not finite, or the names do not fit.
    """
    directory, classes = Path(directory), module.num_classes
    there = [path.name for path in directory.iterdir() if path.name != ".lock"] if directory.is_dir() else []
    if there:
        raise UserError(f"the workdir {directory} is not empty (it holds {there[0]}); choose another")
    models.check_classes(classes, "the network")
    if class_names and len(class_names) != classes:
        raise UserError(f"there are {len(class_names)} names of classes, but the network has {classes} classes")
    broken = [jax.tree_util.keystr(path, simple=True, separator="/")
              for path, leaf in jax.tree_util.tree_leaves_with_path(variables) if not np.isfinite(leaf).all()]
    if broken:
        raise UserError(f"these weights are infinite or not numbers: {some(broken)}")
    mean, std = normalization(settings.data.normalize, np.zeros((1, 1, 1, image_shape[2]), np.uint8))
    names = tuple(class_names or map(str, range(classes)))
    spec = Spec(settings.data.source, "", image_shape, classes, names, {}, mean, std, digest="")
    collections = jax.tree.map(jnp.asarray, variables)
    params = collections.pop("params")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    state = TrainState(jnp.zeros((), jnp.int32), params, collections, (), module, optax.identity())
    with workdir.disk_errors(directory), workdir.lock(directory):
        try:
            run = workdir.describe_machine() | {"parameters": parameters, "data": vars(spec), "imported": imported}
            workdir.write_run(directory, settings.to_dict(), run, resuming=False)
            with contextlib.closing(Checkpoints(directory)) as checkpoints:
                checkpoints.save(state, Metrics.empty())
                checkpoints.wait()
        except BaseException:
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)
            for name in ("config.json", "run.json", "checkpoints.json"):
                (directory / name).unlink(missing_ok=True)
            raise
    log.info("%s, %s parameters, %d classes, %s images: %s", settings.model["name"], f"{parameters:,}", classes,
             "x".join(map(str, image_shape)), directory)
