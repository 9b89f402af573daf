"""Finished runs: their network, their data, and their score on a split."""
import contextlib
import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from modern_cnn import models, settings, zoo
from modern_cnn.data import sources
from modern_cnn.data.sources import Dataset
from modern_cnn.data.spec import Spec
from modern_cnn.errors import UserError, some
from modern_cnn.runs import workdir
from modern_cnn.runs.checkpoints import Checkpoints
from modern_cnn.runs.mirror import local
from modern_cnn.settings import Data, Settings
from modern_cnn.training import finetune, whiten
from modern_cnn.training.devices import Devices
from modern_cnn.training.metrics import Metrics
from modern_cnn.training.program import make_evaluate, make_predict, seed_keys
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)


class TrainedRun(NamedTuple):
    """A run's result: the best checkpoint on validation, or the last."""
    module: nn.Module  # ready for `module.apply(variables, images, train=False)`
    variables: dict[str, Any]
    settings: Settings  # fields that its version did not have yet have their defaults
    spec: Spec  # of the data that it was trained on
    run: dict[str, Any]  # run.json
    step: int  # of the checkpoint


def load_run(directory: str | Path) -> TrainedRun:
    """Return the result of a workdir, or a stored network: zoo:NAME, hub:USER/NAME, a folder (see `modern_cnn.zoo`).

    Raise UserError if it is no workdir, one without a good checkpoint, or an unknown name.
    """
    directory = local(directory)
    config, run = workdir.read_run(directory)
    spec = Spec.from_json(run["data"])
    try:
        models.check_classes(spec.num_classes, f"the network in {directory}")
        module = models.build(**config["model"], num_classes=spec.num_classes)
        images = jnp.zeros((1, *spec.image_shape))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    except (TypeError, ValueError, AttributeError) as e:
        own = "" if config["model"].get("name") in models.MODELS else (
            "; if it is a network of your own, import the module that adds it to modern_cnn.models.MODELS first")
        raise UserError(f"the network of {directory / 'config.json'} cannot be built: {str(e)[:300]}{own}") from e
    if name := zoo.named(directory):
        step, variables = zoo.card(name)["steps"], jax.device_put(zoo.weights(name))
        wrong = _differing(variables, shapes)
        if wrong:
            raise UserError(f"the weights of {directory} are not those of its network: {some(wrong)}")
    else:
        with contextlib.closing(Checkpoints(directory, read_only=True)) as checkpoints:
            # jnp.zeros would compile a program for each shape.
            template = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
            step, variables = checkpoints.result(template)
    return TrainedRun(module, variables, settings.from_json(config), spec, run, step)


def _differing(variables: dict[str, Any], shapes: dict[str, Any]) -> list[str]:
    """Return the paths of leaves that only one of two trees has, or that have another shape there."""
    leaves: list[dict[str, Any]] = [flatten_dict(tree, sep="/") for tree in (variables, shapes)]
    found, wanted = ({path: leaf.shape for path, leaf in each.items()} for each in leaves)
    return [str(path) for path in sorted(found | wanted) if found.get(path) != wanted.get(path)]


def evaluate_workdir(directory: str | Path, split: str = "test", data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score the result of a workdir on a split of its data: {'accuracy', 'loss', 'count', ...}.

    `data` are fields of the config's data section to replace, e.g. {'source': 'idx:/elsewhere'}. Raise UserError if
    there is no such split, or other classes or shapes than the network was trained on.
    """
    directory = local(directory)
    dataset = load_data(directory, split, data)
    trained, devices = load_run(directory), Devices()
    log.info("scoring the %d images of the %s split of %s", dataset.spec.sizes[split], split, dataset.spec.origin)
    variables = dict(trained.variables)
    state = TrainState(jnp.int32(0), variables.pop("params"), variables, (), trained.module, optax.identity())
    evaluate = make_evaluate(dataset.spec, devices, dataset.feed(devices), trained.settings.data.batch_size,
                             trained.settings.augment)
    return _scores(trained, split, evaluate(devices.replicate(state), split), dataset.spec.num_classes)


def _scores(trained: TrainedRun, split: str, metrics: Metrics, num_classes: int) -> dict[str, Any]:
    means = metrics.means(num_classes)
    return {"split": split, "step": trained.step, "accuracy": means["accuracy"], "loss": means["loss"],
            "count": int(metrics.count)} | means


class Predicted(NamedTuple):
    """The logits of a network for every example of a split, in their order."""
    trained: TrainedRun
    dataset: Dataset
    section: Data  # with which the data were loaded
    logits: np.ndarray  # float32 [N, K], mean of the views that the run scores
    labels: np.ndarray  # int32 [N]
    scores: dict[str, Any]  # as `evaluate_workdir` returns them


def predict_split(directory: str | Path, split: str = "test", data: dict[str, Any] | None = None) -> Predicted:
    """Return the logits of the result of a workdir for each example of a split. It raises as `evaluate_workdir`."""
    directory = local(directory)
    dataset, section = load_data(directory, split, data), data_section(directory, split, data)
    trained, devices = load_run(directory), Devices()
    log.info("scoring the %d images of the %s split of %s", dataset.spec.sizes[split], split, dataset.spec.origin)
    predict = make_predict(trained.module, dataset.spec, devices, dataset.feed(devices),
                           trained.settings.data.batch_size, trained.settings.augment)
    logits, labels = predict(trained.variables, split)
    scores = _scores(trained, split, Metrics.from_batch(jnp.asarray(logits), jnp.asarray(labels)),
                     dataset.spec.num_classes)
    return Predicted(trained, dataset, section, logits, labels, scores)


def data_section(directory: str | Path, split: str, data: dict[str, Any] | None = None) -> Data:
    """Return the `data` section with which `load_data` loads: the run's, with other `data` fields.

    Raise UserError if the run has no data, and `data` names none.
    """
    config, run = workdir.read_run(local(directory))
    own, trained = settings.from_json(config).data, Spec.from_json(run["data"])
    section = dataclasses.replace(own, balanced=False, **(data or {}))  # which is for training
    if not section.source:
        raise UserError(f"the weights in {directory} were imported without data: name the data, --source=folder:DIR")
    if not trained.digest or not sources.is_same(section.source, trained):  # other data than in training
        height, width, _ = trained.image_shape
        if not section.image_size and height == width:
            section = dataclasses.replace(section, image_size=height)
        kind, _ = sources.resolve(section.source)
        divided = {} if split != "test" else {"validation": 0.0, "train_size": 0}
        # A stream decodes nothing but the split that is scored. The statistics of the data are not used.
        streams = (kind in sources.OF_FILES and section.image_size > 0) or (kind == "tfds" and section.stream)
        section = dataclasses.replace(section, stream=streams, normalize="unit", **divided)
    return section


def load_data(directory: str | Path, split: str, data: dict[str, Any] | None = None) -> Dataset:
    """Return the data of a run, or other `data`, to be normalised as in training. It raises as `evaluate_workdir`."""
    directory = local(directory)
    section, trained = data_section(directory, split, data), Spec.from_json(workdir.read_run(directory)[1]["data"])
    dataset = sources.load(section, trained.image_shape[2])
    if dataset.spec.image_shape != trained.image_shape:
        raise UserError(f"{section.source} has {[*dataset.spec.image_shape]} images, but the network was trained on "
                        f"{[*trained.image_shape]}")
    dataset = _match_classes(dataset, trained)
    if trained.digest and sources.is_same(section.source, trained):  # imported weights have no digest
        sources.check_unchanged(dataset, trained, split)
    if split not in dataset.splits:
        raise UserError(f"{section.source} has no split {split!r}, only {', '.join(dataset.splits)}")
    return dataset.normalized_as(trained)


def _match_classes(dataset: Dataset, trained: Spec) -> Dataset:
    """Return a set with its labels numbered as the classes of a network, which are found by their names."""
    theirs, ours = dataset.spec.class_names, trained.class_names
    if theirs == ours or (dataset.spec.source, dataset.spec.digest) == (trained.source, trained.digest):
        return dataset
    if not trained.digest and ours == tuple(map(str, range(len(theirs)))) and not any(map(str.isdecimal, theirs)):
        log.warning("the classes of the imported network have no names: those of %s are taken in alphabetical order, "
                    "%s; import_weights.py --classes=FILE gives names", dataset.spec.source, some(theirs))
        return dataset
    return dataset.relabel(ours)


def examples(dataset: Dataset, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (images uint8 [n, H, W, C], not normalised, labels int32 [n]) of a split. UserError: no such index."""
    size = dataset.spec.sizes[split]
    outside = [index for index in indices if not 0 <= index < size]
    if outside:
        raise UserError(f"{dataset.spec.source} has no image {outside[0]}: the images of its {split} split have the "
                        f"numbers 0 to {size - 1:,}")
    spec = dataclasses.replace(dataset.spec, sizes={split: len(indices)})
    chosen = dataclasses.replace(dataset, spec=spec, splits={split: dataset.splits[split].take(indices)})
    feed = chosen.feed(Devices(count=1))
    batches = [feed.eval_batch(*arguments) for arguments in feed.evaluation(split, min(len(indices), 128))]
    images, labels, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "mask"))
    return images[mask], labels[mask]


def training_data(asked: Settings, begun: str | Path = "") -> Dataset:
    """Return the data of a run: if it starts from weights, with the channels of their network.

    Where both runs normalise as 'standard', mean and deviation too are those of the weights. All are read from `begun`,
    the workdir of the run itself once it has begun, else from that of the weights.
    """
    if not asked.finetune.workdir:
        return sources.load(asked.data)
    config, run = workdir.read_run(local(begun or asked.finetune.workdir))
    trained = Spec.from_json(run["data"])
    dataset = sources.load(asked.data, trained.image_shape[2])
    same = asked.data.normalize == settings.from_json(config).data.normalize == "standard"
    return dataset.normalized_as(trained) if same else dataset


def _check_unseen(asked: Settings, dataset: Dataset, trained: TrainedRun) -> None:
    """Raise UserError if the test split may hold images that the weights were trained on; warn of validation images."""
    its, now = trained.settings.data, asked.data
    if not trained.spec.digest or not sources.is_same(now.source, trained.spec, moved=False):
        return
    resized = dataset.spec.image_shape != trained.spec.image_shape or its.resize != now.resize
    fewer = bool(its.train_size or now.train_size)  # then the sizes do not tell how many images there are
    count = (lambda sizes: sizes["test"]) if fewer else (lambda sizes: sum(sizes.values()))
    sources.check_unchanged(dataset, trained.spec, "test", count if resized else None)
    if "validation" in dataset.spec.sizes and its.validation != now.validation:
        log.warning("the weights in %s were trained on images that this run validates on: --config.data.validation=%s "
                    "has the same ones", asked.finetune.workdir, its.validation)


def pretrained(asked: Settings, module: nn.Module, dataset: Dataset, *,
               begins: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (variables to start from, where they are from for run.json) of config.finetune.workdir.

    The variables are without the head where it is to be new: where the classes have other names than there, or merely
    the numbers of another set. Raise UserError if there is no run, another network, shapes that do not fit, or, for a
    run that `begins`, test images of `dataset` may be among those that the weights were trained on.
    """
    source, spec = asked.finetune.workdir, dataset.spec
    trained = load_run(source)
    if trained.settings.model["name"] != asked.model["name"]:
        raise UserError(f"config.finetune.workdir={source} holds the network {trained.settings.model['name']!r}, and "
                        f"this run trains config.model.name={asked.model['name']!r}")
    if begins:
        _check_unseen(asked, dataset, trained)
    head = finetune.head_paths(module, spec.image_shape)
    numbers = spec.class_names == tuple(map(str, range(spec.num_classes)))
    same = spec.digest == trained.spec.digest or (
        spec.class_names == trained.spec.class_names and (not numbers or spec.source == trained.spec.source))
    kept = set() if same else {f"params/{path}" for path in head}
    flat: dict[str, Any] = flatten_dict(trained.variables, sep="/")
    leaves = {path: leaf for path, leaf in flat.items() if path not in kept}
    wanted = {path: shape for path, shape in finetune.shapes(module, spec.image_shape).items() if path not in kept}
    wrong = [f"{path} is {leaves[path].shape if path in leaves else 'missing'} there, {wanted.get(path, 'none')} here"
             for path in sorted(wanted | leaves) if path not in leaves or leaves[path].shape != wanted.get(path)]
    if wrong:
        there, here = ("x".join(map(str, shape)) for shape in (trained.spec.image_shape, spec.image_shape))
        raise UserError(f"the weights in {source}, of {there} images, do not fit this network and its {here} images: "
                        f"{wrong[0]}" + (f", and {len(wrong) - 1} more" if wrong[1:] else "") + "; options of the "
                        "network, channels, and where there are dense layers config.data.image_size must be the same")
    pixels = trained.settings.data.normalize
    if pixels != asked.data.normalize:
        log.warning("the weights in %s were trained on images normalised as %r, this run normalises as %r: "
                    "--config.data.normalize=%s would keep them equal", source, pixels, asked.data.normalize, pixels)
    digest = hashlib.sha256()
    for path, leaf in sorted(flat.items()):
        digest.update(f"{path} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    origin = {"workdir": str(source), "step": trained.step, "digest": digest.hexdigest()[:16],
              "source": trained.spec.source, "head": "kept" if same else "new"}
    log.info("starting from step %d of %s (%s), with %s", trained.step, source,
             trained.spec.source or "imported weights",
             "its head: the classes are the same" if same else f"a new head: {', '.join(sorted(head))}")
    return unflatten_dict(leaves, sep="/"), {"finetuned_from": origin}


def initial_variables(trained: TrainedRun, dataset: Dataset) -> dict[str, Any]:
    """Return the variables with which a run began, within rounding. Raise UserError if it began from one that is gone.

    `dataset` is that of the run, whose images a whitening kernel comes from.
    """
    key, _ = seed_keys(trained.settings.seed)
    begun = None
    if trained.settings.finetune.workdir:
        own = dataclasses.replace(dataset, spec=trained.spec)  # of the run, whatever `dataset` is called
        begun, _ = pretrained(trained.settings, trained.module, own, begins=False)
    begun = whiten.start_from(dataset, trained.module, begun)
    return TrainState.create(key, trained.module, optax.identity(), trained.spec.image_shape, begun).variables
