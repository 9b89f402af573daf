"""The config that every other one starts from. `modern_cnn/settings.py` declares its fields, docs/config.md lists them.

A config file holds only what differs. The command line can override any field: --config.optimizer.momentum=0.9.
"""
import difflib
from collections.abc import Iterable

import ml_collections
from ml_collections import config_dict

from modern_cnn import settings

COMMON = ("width", "norm", "unbiased", "initializer", "dtype")  # options that most networks have


def get_config() -> ml_collections.ConfigDict:
    """Return a config with every default."""
    return settings.default_config()


def add_options(config: ml_collections.ConfigDict, **options: type) -> None:
    """Let the command line set these options of the network, and the COMMON ones: --config.model.width=0.5."""
    for name, kind in ({name: settings.OPTIONS[name].type for name in COMMON} | options).items():
        config.model[name] = config_dict.placeholder(kind)


def check_variant(variant: str, variants: Iterable[str]) -> str:
    """Return the variant after the colon of --config=FILE:variant. Raise ValueError if the config does not have it."""
    variants = tuple(variants)
    if variant not in variants:
        close = difflib.get_close_matches(variant, variants, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"this config has no variant {variant!r}.{hint} Its variants are: {', '.join(variants)}")
    return variant
