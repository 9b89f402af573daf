"""A run as compiled functions: network, optimiser and plan, made once from settings, data and devices.

A `Program` opens no file and prints nothing. `runs.loop.fit` trains it, and so does a loop written by hand.
"""
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.data import augment, decoding
from modern_cnn.data.sources import Dataset
from modern_cnn.data.spec import Feed, Spec
from modern_cnn.errors import UserError
from modern_cnn.functional.regularize import is_zero
from modern_cnn.settings import Augment, Settings
from modern_cnn.training import finetune, optim, steps, whiten
from modern_cnn.training.devices import Devices
from modern_cnn.training.metrics import Metrics, balanced_weights
from modern_cnn.training.state import TrainState

FLIP_FOLD = 2**32 - 1  # folded into the key of augmentation for what no step changes; steps are below
Step = Callable[..., tuple[TrainState, Metrics, jax.Array]]
Gradients = Callable[..., dict[str, jax.Array]]


class Plan(NamedTuple):
    """Numbers that follow from the settings and the data."""
    batch_size: int
    steps_per_epoch: int  # full batches; the images left over are others in every epoch
    total_steps: int
    peak: Any  # learning rate after the warm-up
    schedule: Callable[[Any], Any]  # step -> learning rate


class Parts(NamedTuple):
    """The parts of a run; the `settings` of stacked trials hold traced numbers."""
    settings: Settings
    plan: Plan
    module: nn.Module
    optimizer: optax.GradientTransformation


def make_plan(settings: Settings, spec: Spec, batch_shares: int = 1) -> Plan:
    """Return the plan of a run with batches in `batch_shares` parts. Raise UserError if they do not fit or divide."""
    batch_size, train_size = settings.data.batch_size, spec.sizes["train"]
    if batch_size % (batch_shares * settings.accumulate):
        parts = " and ".join([f"{batch_shares} devices"] * (batch_shares > 1)
                             + [f"config.accumulate={settings.accumulate} parts"] * (settings.accumulate > 1))
        raise UserError(f"config.data.batch_size={batch_size} cannot be divided among {parts}"
                        + (" (--config.parallel.count=N uses fewer)" if batch_shares > 1 else ""))
    if batch_size > train_size:
        raise UserError(f"config.data.batch_size={batch_size} is more than the {train_size} training images of "
                        f"{spec.source}")
    decoding.check_memory(f"a batch of {spec.source}", batch_size, *spec.image_shape[:2])
    mixed = [name for name in ("mixup", "cutmix") if not is_zero(getattr(settings.augment, name))]
    if mixed and batch_size < 2:
        raise UserError(f"config.augment.{mixed[0]} mixes two images of a batch, and config.data.batch_size is 1")
    steps_per_epoch = train_size // batch_size
    total = settings.epochs * steps_per_epoch
    peak = optim.peak_learning_rate(settings.optimizer, batch_size)
    schedule = optim.make_schedule(settings.schedule, peak, steps_per_epoch, total)
    return Plan(batch_size, steps_per_epoch, min(total, settings.max_steps or total), peak, schedule)


def build_network(model: dict[str, Any], spec: Spec) -> nn.Module:
    """Return the network of a config's `model` section for a data set; raise UserError if its images do not fit."""
    models.check_classes(spec.num_classes, f"a network for the classes of {spec.source}")
    module = models.build(**model, num_classes=spec.num_classes)
    try:
        images = jnp.zeros((2, *spec.image_shape))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=True))["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            if leaf.size == 0:
                raise ValueError(f"its {jax.tree_util.keystr(path)} would have the shape {leaf.shape}")
    except UserError:
        raise
    except (ValueError, TypeError, ZeroDivisionError) as e:
        height, width, channels = spec.image_shape
        hint = " (--config.data.image_size=N resizes them)" if "too small" in str(e) else ""
        raise UserError(f"the network {model['name']!r} cannot be built for the {height}x{width}x{channels} images of "
                        f"{spec.source}: {e}{hint}") from e
    return module


def check_optimizer(settings: Settings, module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raise UserError if the optimiser cannot train the kernels of a network as they are.

    A step of Muon holds the scaling of a kernel to its norm, so the step of a head must not be multiplied.
    """
    name, section = settings.optimizer.name, settings.finetune
    if getattr(module, "scan", False) and name in ("muon", "lars"):
        raise UserError(f"config.optimizer.name={name} treats each kernel for itself, and config.model.scan=True makes "
                        "one array of those of a stage: leave scan out")
    if name != "muon":
        return
    kernels = {path.removeprefix("params/") for path, shape in finetune.shapes(module, image_shape).items()
               if path.startswith("params/") and len(shape) == 4}
    if not kernels:
        raise UserError("config.optimizer.name=muon is for kernels of convolutions, and the network "
                        f"{settings.model['name']!r} has none")
    if section.workdir and section.head_multiplier != 1 and kernels & finetune.head_paths(module, image_shape):
        raise UserError(f"config.finetune.head_multiplier={section.head_multiplier} and config.optimizer.name=muon do "
                        "not go together where the head is a convolution: leave one out")


def make_parts(settings: Settings, spec: Spec, devices: Devices, module: nn.Module | None = None) -> Parts:
    """Return plan, network and optimiser of a run; `module`: the network, where it is built already."""
    plan = make_plan(settings, spec, devices.batch_shares)
    module = module or devices.adapt_norm(build_network(settings.model, spec))
    check_optimizer(settings, module, spec.image_shape)
    optimizer = optim.make_optimizer(settings.optimizer, plan.schedule, plan.peak)
    return Parts(settings, plan, *finetune.adapt(settings.finetune, module, optimizer, spec.image_shape))


def seed_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Return the keys of a run: of the initial parameters, and of its steps."""
    init, step = jax.random.split(jax.random.key(seed))
    return init, step


def jit_once(function: Callable, **options: Any) -> Callable:
    """Return jit(function), compiled quickly rather than well, for what runs once: drawing the parameters of a network.

    On a CPU this takes a fraction of the time, and the same bits come out.
    """
    quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quick, **options)


def make_init(parts: Parts, spec: Spec) -> Callable[..., TrainState]:
    """Return (data of a key, variables to start from or None) -> the state of step 0; the key draws the others."""
    ema = not is_zero(parts.settings.optimizer.ema_decay)
    return lambda key, start=None: TrainState.create(jax.random.wrap_key_data(key), parts.module, parts.optimizer,
                                                     spec.image_shape, start, ema=ema)


def _on_batches(function: Callable, parts: Parts, spec: Spec, devices: Devices, feed: Feed,
                key: jax.Array) -> Callable:
    """Return (state, *arguments of the feed) -> `function(state, batch, key of dropout)` on the batch of its step."""
    dropout_key, augment_key = jax.random.split(jax.random.wrap_key_data(key))
    next_batch = make_batch(parts, spec, devices, feed, augment_key)
    compiled = devices.parallelize(function)
    return lambda state, *args: compiled(state, next_batch(state.step, *args), dropout_key)


def make_step(parts: Parts, spec: Spec, devices: Devices, feed: Feed, key: jax.Array) -> Step:
    """Return (state, metrics, *arguments of the feed) -> (state, metrics, output): one step on the next batch.

    `key` is the data of a key. The batch of a set on the device is found from `state.step`, so only the call goes there
    from the host. `output` is a small array that is not donated, to ask whether the step is done. Under pmap the step
    is two programs (the batch, and learning from it); elsewhere it is to be compiled as one.
    """
    settings = parts.settings
    train_step = _on_batches(partial(
        steps.train_step, label_smoothing=settings.loss.label_smoothing, ema_decay=settings.optimizer.ema_decay,
        accumulate=settings.accumulate), parts, spec, devices, feed, key)

    def step(state, metrics, *args):
        state, new = train_step(state, *args)
        return state, metrics.merge(new), new.count

    return step


def make_gradients(parts: Parts, spec: Spec, devices: Devices, feed: Feed, key: jax.Array) -> Gradients:
    """Return (state, *arguments of the feed) -> `steps.kernel_gradients` of the step that `make_step` would do."""
    settings = parts.settings
    return _on_batches(partial(steps.kernel_gradients, label_smoothing=settings.loss.label_smoothing,
                               accumulate=settings.accumulate), parts, spec, devices, feed, key)


def make_batch(parts: Parts, spec: Spec, devices: Devices, feed: Feed, key: jax.Array) -> Callable[..., steps.Batch]:
    """Return (number of a step, *arguments of the feed) -> the batch it learns from; `key` draws the augmentation."""
    settings, plan = parts.settings, parts.plan
    flip_key = jax.random.fold_in(key, FLIP_FOLD)
    balanced = settings.loss.class_weights == "balanced"
    weights = balanced_weights(feed.train_labels(), spec.num_classes) if balanced else None

    def next_batch(number, *args):
        batch = feed.train_batch(number % plan.steps_per_epoch, plan.batch_size, *args)
        own = jax.random.fold_in(key, number)
        mirrored = None
        if settings.augment.alternate_flip:
            mirrored = augment.alternating(flip_key, batch["number"], number // plan.steps_per_epoch)
        images = augment.augment(own, batch["image"], settings.augment, cropped=settings.data.stream, mirrored=mirrored)
        batch = augment.mix(own, images, batch["label"], settings.augment)
        if weights is not None:
            batch |= {f"{label}_weight": jnp.take(weights, batch[label]) for label in ("label", "other")
                      if label in batch}
        return devices.shard_batch(batch | {"image": augment.normalize(batch["image"], spec.mean, spec.std)})

    return jax.jit(next_batch) if devices.pmapped else next_batch


def make_count(spec: Spec, feed: Feed, section: Augment) -> Callable[..., Metrics]:
    """Return (state, metrics, *arguments of the feed) -> metrics with the examples of a batch added.

    `section` says which views of an image are scored (test_flip, test_shift).
    """
    def count(state, metrics, *args):
        batch = feed.eval_batch(*args)
        batch["image"] = augment.normalize(batch["image"], spec.mean, spec.std)
        return metrics.merge(steps.eval_step(state, batch, flip=section.test_flip, shift=section.test_shift))

    return count


def make_evaluate(spec: Spec, devices: Devices, feed: Feed, batch_size: int,
                  section: Augment | None = None) -> Callable[[TrainState, str], Metrics]:
    """Return (state, split) -> metrics, compiled: every example of the split counts once; see `make_count`."""
    count = jax.jit(make_count(spec, feed, section or Augment()), out_shardings=devices.everywhere)

    def evaluate(state, split):
        metrics = devices.replicate(Metrics.empty())
        for args in _visit_all(spec, devices, feed, batch_size, split):
            metrics = count(state, metrics, *args)
        return metrics

    return evaluate


def make_predict(module: nn.Module, spec: Spec, devices: Devices, feed: Feed, batch_size: int,
                 section: Augment) -> Callable[[Any, str], tuple[np.ndarray, np.ndarray]]:
    """Return (variables, split) -> (logits float32 [N, K], labels int32 [N]) of all its examples, in their order.

    `section` is that of `make_count`.
    """
    def predict(variables, *args):
        batch = feed.eval_batch(*args)
        images = augment.normalize(batch["image"], spec.mean, spec.std)
        logits = steps.evaluation_logits(module, variables, images, section.test_flip, section.test_shift)
        return logits.astype(jnp.float32), batch["label"], batch["mask"]

    compiled = jax.jit(predict, out_shardings=devices.everywhere)

    def predict_split(variables, split):
        variables = devices.replicate(variables)
        batches = [jax.device_get(compiled(variables, *args))
                   for args in _visit_all(spec, devices, feed, batch_size, split)]
        logits, labels, mask = map(np.concatenate, zip(*batches, strict=True))
        return logits[mask], labels[mask]

    return predict_split


def _visit_all(spec: Spec, devices: Devices, feed: Feed, batch_size: int, split: str) -> Iterator[tuple]:
    """Return the arguments of `Feed.eval_batch` for the batches of a split, which all devices share equally."""
    shares = devices.batch_shares
    return feed.evaluation(split, -(-min(batch_size, spec.sizes[split]) // shares) * shares)


class Program:
    """One run, compiled: its settings, its images, and devices, by default those that the settings ask for.

    `step(state, metrics, *batch)` returns (state, metrics with this batch, a small array that is ready when the step is
    done). `state` and `metrics` are donated: their buffers are used again, so the caller must not. `evaluate(state,
    split)` returns the metrics of a split, and `gradients(state, *batch)` the sizes of the gradients with which the
    step would learn (`steps.kernel_gradients`); it donates nothing. Raise UserError for images that do not fit the
    network, or as `make_plan`.
    """

    def __init__(self, settings: Settings, dataset: Dataset, devices: Devices | None = None):
        self.settings, self.spec, self._dataset = settings, dataset.spec, dataset
        self.devices = devices or Devices(**dataclasses.asdict(settings.parallel))
        self._parts = make_parts(settings, dataset.spec, self.devices)
        self.plan = self._parts.plan
        self._feed = dataset.feed(self.devices, settings.augment.resized_crop)
        self.evaluate = make_evaluate(self.spec, self.devices, self._feed, self.plan.batch_size,
                                      settings.augment)
        self._init_key, key = map(jax.random.key_data, seed_keys(settings.seed))
        shared = self._parts, self.spec, self.devices, self._feed
        make, make_sizes = partial(make_step, *shared), partial(make_gradients, *shared)
        if self.devices.pmapped:
            self.step: Step = make(key)
            self.gradients: Gradients = make_sizes(key)
            return
        # --debug_nans repeats a bad step operation by operation, and needs its inputs again.
        donated = () if jax.config.values["jax_debug_nans"] else (1, 2)
        # The key is an argument, so that runs with other seeds find this program in the compilation cache.
        self.step = partial(jax.jit(lambda key, *args: make(key)(*args), donate_argnums=donated),
                            self.devices.replicate(key))
        self.gradients = partial(jax.jit(lambda key, *args: make_sizes(key)(*args)), self.devices.replicate(key))

    @property
    def module(self) -> nn.Module:
        """The network. Another one is a new name in `models.MODELS`."""
        return self._parts.module

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of the settings. Another one belongs into the state, with its own `opt_state`."""
        return self._parts.optimizer

    def init(self, start: dict[str, Any] | None = None) -> TrainState:
        """Return the state of step 0: `start`, where variables are given, and the rest drawn from the seed.

        A whitening kernel (`whiten`) comes from the images.
        """
        start = whiten.start_from(self._dataset, self.module, start)
        create = jit_once(make_init(self._parts, self.spec), out_shardings=self.devices.everywhere)
        return create(self.devices.replicate(self._init_key), start)

    def empty_metrics(self) -> Metrics:
        """Return metrics of no examples, to be handed to `step`."""
        return self.devices.replicate(Metrics.empty())

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple]:
        """Return the arguments of `step` for the batches of an epoch, from number `first` on."""
        return self._feed.train(self.settings.seed, epoch, first, self.plan.batch_size)

    def learning_rates(self, step: int) -> list[float]:
        """Return the learning rate of a step, of each trial."""
        return [float(jax.jit(self.plan.schedule)(step))]  # one program: a dozen small ones take longer to compile

    def stack(self, trees: list[Any]) -> Any:
        """Return the trees of all trials as one; of a single run, its own."""
        return trees[0]

    def unstack(self, tree: Any) -> list[Any]:
        """Return the tree of each trial."""
        return [tree]
