"""Every field of a config, declared once: default, meaning, bounds, and who may change it.

`default_config` returns the ConfigDict that config files and the command line edit. `read` checks such a ConfigDict and
returns it as frozen `Settings`; no other module knows the ConfigDict. The values 0 and '' mean "not set".
"""
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from modern_cnn.errors import UserError, did_you_mean

# Whether a resumed run may have another value than the run was started with.
NEVER = "no"  # another value makes another run
ALWAYS = "yes"  # the result does not depend on it
LENGTH = "yes, it sets the length"
EPOCHS = "yes, unless the schedule spans all epochs"
PLACE = "yes, if the images are the same"
SPANNING = ("cosine", "linear")  # schedules that need to know the last epoch
LARGEST = 10**9  # of a number whose field says nothing else
LARGEST_FLOAT = 3.4e38  # in 32 bits
LARGEST_IMAGE, MOST_CLASSES = 16_384, 1_000_000


class Field(NamedTuple):
    """One field of a config."""
    type: type  # of its values
    default: Any  # None for an option of the network, which then keeps the network's own value
    meaning: str
    low: float | None = None  # bounds of a number, or of all in a list, both allowed; None for text and options
    high: float = LARGEST
    choices: tuple[str, ...] = ()  # the words that are allowed; empty if any text is
    resume: str = NEVER
    varies: bool = False  # may differ among trials that train together as one program, which gets it as a traced number
    needs: str = ""  # another field, without which a value that is not the default does nothing


def _field(default: Any, meaning: str, *bounds: Any, **more: Any) -> Any:
    """Return a dataclass field with its `Field` in the metadata."""
    field = Field(type(default), default, meaning, *bounds, **more)
    return dataclasses.field(default=default, metadata={"field": field})


def _flag(meaning: str, **more: Any) -> Any:
    return _field(False, meaning, 0, 1, **more)


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How several devices share a batch."""
    count: int = _field(0, "use this many devices; 0: all of them", 0, 100_000, resume=ALWAYS)
    compile: str = _field("jit", "how the step is compiled for all devices: jit over a mesh, or pmap",
                          choices=("jit", "pmap"), resume=ALWAYS)
    batch_norm: str = _field("global", "global: over the whole batch (synchronised); device: over each device's part",
                             choices=("global", "device"))


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from and how they are prepared."""
    source: str = _field("fashion_mnist", "digits, tfds:NAME, idx:DIR, cifar:DIR, folder:DIR, csv:FILE, or a name; "
                         "DIR may be in a bucket, gs://BUCKET/PATH", resume=PLACE)
    batch_size: int = _field(128, "images in a batch, over all devices; an incomplete last batch is left out", 1)
    image_size: int = _field(0, "resize images to this many pixels, square; 0: keep their size", 0, LARGEST_IMAGE)
    resize: int = _field(0, "scale the shorter side to this many pixels (256) before the centre of image_size is cut "
                         "out, as torchvision evaluates; 0: image_size", 0, LARGEST_IMAGE, needs="data.image_size")
    normalize: str = _field("unit", "pixels in [0, 1] (unit) or [-1, 1] (symmetric), or with mean 0 and deviation 1 by "
                            "the statistics of the set (standard; of a fine-tuned run, of the set before) or of "
                            "ImageNet (imagenet)",
                            choices=("unit", "symmetric", "standard", "imagenet"))
    train_size: int = _field(0, "train on this many training images, stratified and always the same; 0: all", 0)
    validation: float = _field(0.0, "share of the training images that is held out to choose the best checkpoint, "
                               "stratified and always the same", 0, 1)
    balanced: bool = _flag("an epoch has equally many training images of each class, those of a small class several "
                           "times and those of a large one in part; for sets in memory")
    stream: bool = _flag("decode images during training: for folder:, csv: and tfds: sets that do not fit into memory")
    layout: str = _field("auto", "of folder:DIR: the folders in it are splits (DIR/train/CLASS/FILE) or classes "
                         "(DIR/CLASS/FILE); auto: names say which", choices=("auto", "splits", "classes"), resume=PLACE)
    skip_damaged: bool = _flag("leave out image files that do not decode, and say how many; a streamed set is decoded "
                               "once to find them", resume=PLACE)
    num_classes: int = _field(0, "number of classes; 0: as many as the data have", 0, MOST_CLASSES)
    manual_dir: str = _field("", "for tfds: take the files from this folder instead of downloading them", resume=PLACE)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training images, in this order, inside the compiled step (on the host: crops of a stream)."""
    resized_crop: float = _field(0.0, "cut out a box of at least this share of the area (0.08) and resize it", 0, 1)
    crop: int = _field(0, "pad by this many black pixels and cut out the original size at a random place", 0, 512)
    reflect: bool = _flag("of crop: pad with the image reflected at its edges instead of black", needs="augment.crop")
    flip: bool = _flag("mirror half of the images left to right")
    alternate_flip: bool = _flag("of flip: mirror an image in every other epoch, half of the images in the first "
                                 "(Jordan 2024)", needs="augment.flip")
    randaugment: int = _field(0, "so many random operations of RandAugment on each image (2); 0: none", 0, 14)
    magnitude: float = _field(9.0, "of randaugment: strength of its operations", 0, 30, needs="augment.randaugment")
    rotate: float = _field(0.0, "rotate by up to this many degrees to either side", 0, 180)
    zoom: float = _field(0.0, "scale by 1 - zoom to 1 + zoom, height and width separately", 0, 0.99)
    shift: float = _field(0.0, "move by up to this many pixels in each direction", 0, 512)
    brightness: float = _field(0.0, "multiply pixels by 1 - brightness to 1 + brightness (0.4)", 0, 10)
    contrast: float = _field(0.0, "multiply the distance from the mean grey of the image, in the same way (0.4)", 0, 10)
    saturation: float = _field(0.0, "multiply the distance from the grey of each pixel, in the same way (0.4); colour "
                               "images only", 0, 10)
    hue: float = _field(0.0, "turn the hue up to this share of the circle to either side; colour images only", 0, 0.5)
    lighting: float = _field(0.0, "standard deviation of AlexNet's shifts along ImageNet's principal colours (0.1); "
                             "colour images only", 0, 10)
    cutout: int = _field(0, "black out a square of this many pixels a side around a random pixel", 0, 1024)
    erase: float = _field(0.0, "probability that a box of 2 to 33 % of the area is filled with random pixels (0.25)", 0,
                          1)
    mixup: float = _field(0.0, "blend pairs of images and their labels; alpha of Beta(alpha, alpha) (0.2)", 0, 100)
    cutmix: float = _field(0.0, "paste a box of another image; alpha (1); with mixup, half of the images each", 0, 100)
    test_flip: bool = _flag("average the logits of a test image and of its mirror image")
    test_shift: int = _field(0, "average the logits of a test image and, with half of the weight, of the image moved "
                             "by this many pixels to the upper left and to the lower right, reflected at its edges",
                             0, 512)


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss: cross-entropy."""
    label_smoothing: float = _field(0.0, "share of the target distribution that goes to all classes equally (0.1)",
                                    0, 0.99, varies=True)
    class_weights: str = _field("none", "balanced: weigh each training image by the inverse of the size of its class, "
                                "so that all classes count equally", choices=("none", "balanced"))


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients change the parameters."""
    name: str = _field("sgd", "the optimiser", choices=("sgd", "adam", "adamw", "lars", "muon"))
    learning_rate: float = _field(0.1, "learning rate after the warm-up", 0, LARGEST_FLOAT, varies=True)
    base_batch_size: int = _field(0, "scale the learning rate by batch_size / base_batch_size (Goyal et al. 2017); "
                                  "0: do not scale", 0)
    momentum: float = _field(0.0, "momentum of sgd and lars, and of muon's sgd", 0, 1, varies=True)
    nesterov: bool = _flag("Nesterov's momentum", needs="optimizer.momentum")
    weight_decay: float = _field(0.0, "L2 penalty on kernels only, not on biases and normalisation; decoupled in adamw",
                                 0, LARGEST_FLOAT, varies=True)
    decoupled: bool = _flag("of sgd and muon: weight_decay does not depend on the learning rate, and decays all that "
                            "SGD trains", needs="optimizer.weight_decay")
    bias_multiplier: float = _field(1.0, "multiplies the learning rate of all but kernels", 1e-6, 1e6)
    muon_rate: float = _field(0.24, "of muon: learning rate of convolution kernels, with the same schedule; the other "
                              "parameters follow sgd", 0, LARGEST_FLOAT)
    muon_momentum: float = _field(0.6, "of muon: momentum of convolution kernels", 0, 1)
    epsilon: float = _field(1e-8, "of adam and adamw: added to the root of the second moment (Keras: 1e-7)", 0, 1)
    epsilon_hat: bool = _flag("of adam and adamw: add epsilon before the bias correction, as Keras does")
    clip_norm: float = _field(0.0, "scale gradients down to this global norm; 0: never", 0)
    ema_decay: float = _field(0.0, "keep moving averages of weights and batch statistics, and evaluate and save those "
                              "(0.999); 0: none", 0, 0.999999, varies=True)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the run."""
    name: str = _field("constant", "constant, divided at milestones (step), a cosine to 0, or a line to 0",
                       choices=("constant", "step", "cosine", "linear"))
    warmup_epochs: float = _field(0.0, "linear warm-up from 0 over this many epochs", 0)
    milestones: tuple[float, ...] = _field(
        (30.0, 60.0, 80.0), "of step: the epochs after which the rate is multiplied by factor", 0)
    factor: float = _field(0.1, "of step: see milestones", 0, LARGEST_FLOAT, varies=True)


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Start from the weights of another run."""
    workdir: str = _field("", "start from the result of this run, trained or imported, with a new head")
    freeze: str = _field("", "patterns of parameters that do not change: 'conv1/*,stage1_*'; 'backbone': all but the "
                         "head", needs="finetune.workdir")
    freeze_statistics: bool = _flag("batch norm uses and keeps the running statistics in training too",
                                    needs="finetune.workdir")
    head_multiplier: float = _field(1.0, "multiplies the learning rate of the head", 0, needs="finetune.workdir")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config. `model` holds the name of the network and its options, None where an option is not set."""
    seed: int = _field(0, "seed of initialisation, order of images, augmentation, dropout", 0, 2**32 - 1, varies=True)
    epochs: int = _field(10, "passes over the training images", 1, 1_000_000, resume=EPOCHS)
    max_steps: int = _field(0, "end after this many steps, with evaluation and checkpoint; 0: after the epochs", 0,
                            resume=LENGTH)
    eval_every_epochs: int = _field(1, "evaluate and save after every so many epochs", 1, resume=ALWAYS)
    early_stopping: int = _field(0, "patience: end after this many evaluations on validation without a new best; "
                                 "0: never", 0, resume=LENGTH)
    test_every_epoch: bool = _flag("also score the test split at each evaluation, as textbooks plot it; it never "
                                   "chooses anything", resume=ALWAYS)
    log_every_steps: int = _field(100, "write a training record after every so many steps and at the end of an epoch; "
                                  "0: only there", 0, resume=ALWAYS)
    log_norms: bool = _flag("also record the running statistics of batch norm, and the sizes of the gradients by "
                            "layer, for visualize.py --what=batch_norm and --what=gradients", resume=ALWAYS)
    loggers: str = _field("none", "also send all records to Weights & Biases (wandb) or MLflow (mlflow), or both",
                          choices=("none", "wandb", "mlflow", "wandb,mlflow", "mlflow,wandb"), resume=ALWAYS)
    accumulate: int = _field(1, "gradient accumulation: go through each batch in this many parts, to save memory; "
                             "batch norm uses the statistics of each part", 1)
    checkpoint_every_steps: int = _field(0, "also save every so many steps; 0: at evaluations only", 0, resume=ALWAYS)
    parallel: Parallel = dataclasses.field(default_factory=Parallel)
    model: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "lenet"})
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    finetune: Finetune = dataclasses.field(default_factory=Finetune)

    def to_dict(self) -> dict[str, Any]:
        """Return the nested dict that config.json holds."""
        return dataclasses.asdict(self)

    def replace(self, values: Mapping[str, Any]) -> "Settings":
        """Return a copy with other values, {'optimizer.momentum': 0.9}; they may be traced numbers."""
        changed: Any = self
        for name, value in values.items():
            section, _, last = name.rpartition(".")
            before = getattr(changed, section) if section else changed
            after = before | {last: value} if isinstance(before, dict) else dataclasses.replace(before, **{last: value})
            changed = dataclasses.replace(changed, **{section: after}) if section else after
        return changed


# Options that most networks have; others are declared by the networks alone.
OPTIONS = {
    "width": Field(float, None, "multiplies the numbers of channels"),
    "norm": Field(str, None, "batch, layer, group, instance or none"),
    "unbiased": Field(bool, None, "store the running variance of batch norm as PyTorch does"),
    "initializer": Field(str, None, "how weights are drawn: a key of modern_cnn.initializers.INITIALIZERS"),
    "dtype": Field(str, None, "precision of the computation: bfloat16; parameters stay float32"),
    "dropout_rate": Field(float, None, "probability that dropout sets a value to 0", varies=True),
}


def _declared() -> Iterator[tuple[str, Field]]:
    for outer in dataclasses.fields(Settings):
        if outer.name == "model":
            yield "model.name", Field(str, "lenet", "a key of modern_cnn.models.MODELS; its options stand beside it")
            yield from ((f"model.{name}", option) for name, option in OPTIONS.items())
        elif "field" in outer.metadata:
            yield outer.name, outer.metadata["field"]
        else:
            for inner in dataclasses.fields(outer.default_factory):  # type: ignore[arg-type]
                yield f"{outer.name}.{inner.name}", inner.metadata["field"]


FIELDS: dict[str, Field] = dict(_declared())
VARYING = tuple(name for name, field in FIELDS.items() if field.varies and name != "seed")


def default_config() -> ml_collections.ConfigDict:
    """Return the config with every default, locked but for the options of the network."""
    config: Any = ml_collections.ConfigDict(Settings().to_dict())
    config.lock()  # a misspelt field in a config file is an error
    config.model.unlock()
    return config


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {'data.batch_size': 64} for {'data': {'batch_size': 64}}, a ConfigDict or Settings."""
    tree = tree.to_dict() if hasattr(tree, "to_dict") else tree
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def locate(config: Any, name: str) -> tuple[Any, str]:
    """Return the section of a ConfigDict that holds a field, and the last part of its name. Raise UserError if none."""
    section, reached, parts = config, "config", name.split(".")
    for part in parts:
        if not hasattr(section, "keys") or part not in section:
            undeclared = reached == "config.model" and part in OPTIONS
            raise UserError(f"{reached} has no field {part!r}" + (
                "; the config file must declare the options of its network: base.add_options(config)" if undeclared
                else did_you_mean(part, getattr(section, "keys", list)())))
        owner, section, reached = section, section[part], f"{reached}.{part}"
    if hasattr(section, "keys"):
        raise UserError(f"{reached} is a section: name one of its fields, {name}.FIELD")
    return owner, parts[-1]


def read(config: ml_collections.ConfigDict) -> Settings:
    """Check a config and return it as Settings. Raise UserError for the first field that it lacks or must not have."""
    from modern_cnn import models  # imports JAX, which the command line need not wait for

    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"the config is a {type(config).__name__}; get_config() must return a ConfigDict, made by "
                        "base.get_config()")
    tree = config.to_dict()
    flat = flatten(tree)
    for name, field in FIELDS.items():
        if name in flat:
            _check(name, field, flat[name])
        elif field.default is not None:
            raise UserError(f"the config lacks config.{name}; start it from base.get_config()")
    unknown = [name for name in flat if name not in FIELDS and not name.startswith("model.")]
    if unknown:
        raise UserError(f"config.{unknown[0]} is not a field{did_you_mean(unknown[0], FIELDS)}")
    if "model.num_classes" in flat:
        raise UserError("config.model.num_classes is not an option: the data say how many classes there are "
                        "(config.data.num_classes)")
    try:
        json.dumps(tree)
    except TypeError as e:
        raise UserError(f"the config may hold only numbers, text and lists ({e}); write a dtype by its name, "
                        "'bfloat16'") from e
    for name, field in FIELDS.items():
        if field.needs and flat[name] != field.default and not flat[field.needs]:
            raise UserError(f"config.{name}={flat[name]!r} does nothing without config.{field.needs}")
    if flat["data.balanced"] and flat["loss.class_weights"] == "balanced":
        raise UserError("config.data.balanced=True and config.loss.class_weights='balanced' both make up for classes "
                        "of different sizes: set one of them")
    if 0 < flat["data.resize"] < flat["data.image_size"]:
        raise UserError(f"config.data.resize={flat['data.resize']} is smaller than config.data.image_size="
                        f"{flat['data.image_size']}, which is cut out of it")
    tree["finetune"]["workdir"] = os.path.expanduser(flat["finetune.workdir"])
    models.build(**tree["model"])
    return from_json(tree)


def from_json(tree: Mapping[str, Any]) -> Settings:
    """Return the Settings of a config.json, unchecked; fields that an earlier version lacked have their defaults."""
    known = {name: value for name, value in flatten(tree).items() if name in FIELDS or name.startswith("model.")}
    return Settings().replace({name: tuple(value) if isinstance(value, list) and name in FIELDS else value
                               for name, value in known.items()})


def check_fields(section: str, values: Mapping[str, Any]) -> None:
    """Raise UserError if one of the values, by name, is of no field of a section, or not one that the field allows."""
    known = [field.removeprefix(f"{section}.") for field in FIELDS if field.startswith(f"{section}.")]
    for name, value in values.items():
        if name not in known:
            raise UserError(f"config.{section} has no field {name!r}{did_you_mean(name, known)}")
        _check(f"{section}.{name}", FIELDS[f"{section}.{name}"], value)


def _check(name: str, field: Field, value: Any) -> None:
    """Raise UserError if a value is not one that its field allows; `models.build` checks the network's options."""
    if field.choices and value not in field.choices:
        raise UserError(f"config.{name}={value!r} is unknown{did_you_mean(str(value), field.choices)}")
    listed, kind = field.type is tuple, float if field.type is tuple else field.type

    def fits(part: Any) -> bool:
        if not isinstance(part, (int, float) if kind is float else kind) or isinstance(part, bool) != (kind is bool):
            return False  # a bool is an int in Python
        return field.low is None or field.low <= part <= field.high

    right = isinstance(value, (tuple, list)) and all(map(fits, value)) if listed else fits(value)
    if not right and field.default is not None:
        allowed = "True or False" if kind is bool else "text" if kind is str else (
            f"{'numbers' if listed else 'a number'} between {field.low} and {field.high}"
            + " without a fraction" * (kind is int))
        raise UserError(f"config.{name}={repr(value)[:100]} must be {allowed}")
