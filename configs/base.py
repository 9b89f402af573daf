"""The config that every other one starts from. `modern_cnn/settings.py` declares its fields, docs/config.md lists them.

A config file holds only what differs. The command line can override any field: --config.optimizer.momentum=0.9.
"""
import difflib
from collections.abc import Sequence

from ml_collections.config_dict import ConfigDict, placeholder

from modern_cnn import settings


def get_config() -> ConfigDict:
    """Return a config with every default."""
    return settings.default_config()


def of_family(variant: str, variants: Sequence[str], **options: type) -> ConfigDict:
    """Return a config for the network after the colon of --config=FILE:variant, with `add_options`."""
    config = get_config()
    config.model.name = check_variant(variant, variants)
    add_options(config, **options)
    return config


def add_options(config: ConfigDict, **options: type) -> None:
    """Let the command line set these options of the network, and those that most have: --config.model.width=0.5."""
    for name, kind in ({name: option.type for name, option in settings.OPTIONS.items()} | options).items():
        config.model[name] = placeholder(kind)


def check_variant(variant: str, variants: Sequence[str]) -> str:
    """Return the variant after the colon of --config=FILE:variant. Raise ValueError if the config does not have it."""
    if variant not in variants:
        close = difflib.get_close_matches(variant, variants, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"this config has no variant {variant!r}.{hint} Its variants are: {', '.join(variants)}")
    return variant


def as_in_papers(config: ConfigDict, *, epochs: int, milestones: tuple[float, ...], weight_decay: float,
                 crop: int) -> None:
    """Set what the papers share: SGD with momentum, a rate that falls in steps, flips; a tenth held out, as we do."""
    config.epochs = epochs
    config.data.update(normalize="standard", validation=0.1)
    config.augment.update(crop=crop, flip=True)
    config.optimizer.update(momentum=0.9, weight_decay=weight_decay)
    config.schedule.update(name="step", milestones=milestones)


def as_in_tensorflow_text(config: ConfigDict) -> None:
    """Set the TensorFlow text's settings of VGG-13 for CIFAR-10 (section 10.10): batch 128, Keras's Adam, 50 epochs."""
    config.epochs = 50
    config.test_every_epoch = True
    config.data.update(source="cifar10", image_size=32, normalize="symmetric")
    config.optimizer.update(name="adam", learning_rate=1e-4, epsilon=1e-7, epsilon_hat=True)
