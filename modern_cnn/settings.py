"""What a config must hold, and within which bounds: checked before anything is read or written."""
import json
import numbers
from math import inf
from typing import Any

import ml_collections

from modern_cnn.errors import UserError

# field -> (smallest, largest) for numbers, None for text and lists.
FIELDS = {
    "seed": (0, 2**32 - 1), "epochs": (1, inf), "max_steps": (0, inf), "eval_every_epochs": (1, inf),
    "test_every_epoch": (0, 1), "log_every_steps": (0, inf), "log_norms": (0, 1), "accumulate": (1, inf),
    "checkpoint_every_steps": (0, inf),
    "parallel.count": (0, inf), "parallel.compile": None, "parallel.batch_norm": None,
    "model.name": None,
    "data.source": None, "data.batch_size": (1, inf), "data.image_size": (0, inf), "data.normalize": None,
    "data.validation": (0, 1), "data.train_size": (0, inf), "data.num_classes": (0, inf), "data.stream": (0, 1),
    "data.manual_dir": None,
    "augment.resized_crop": (0, 1), "augment.crop": (0, inf), "augment.flip": (0, 1), "augment.rotate": (0, 180),
    "augment.zoom": (0, 0.99), "augment.shift": (0, inf), "augment.brightness": (0, inf), "augment.contrast": (0, inf),
    "augment.saturation": (0, inf), "augment.hue": (0, 0.5), "augment.lighting": (0, inf), "augment.cutout": (0, inf),
    "augment.mixup": (0, inf), "augment.cutmix": (0, inf), "augment.test_flip": (0, 1),
    "loss.label_smoothing": (0, 1),
    "optimizer.name": None, "optimizer.learning_rate": (0, inf), "optimizer.base_batch_size": (0, inf),
    "optimizer.momentum": (0, 1), "optimizer.nesterov": (0, 1), "optimizer.weight_decay": (0, inf),
    "optimizer.clip_norm": (0, inf), "optimizer.ema_decay": (0, 1),
    "finetune.workdir": None, "finetune.freeze": None, "finetune.freeze_statistics": (0, 1),
    "finetune.head_multiplier": (0, inf),
    "schedule.name": None, "schedule.warmup_epochs": (0, inf), "schedule.milestones": None, "schedule.factor": (0, inf),
}


def is_zero(value: Any) -> bool:
    """Return whether a setting is a plain 0 or False, which switches a part of the program off.

    A traced number is not zero: its value is unknown while the program is traced. Where 0 is not the weakest value
    (`clip_norm`, `resized_crop`, `mixup`, `cutmix`), trials with and without the part are two programs.
    """
    return isinstance(value, numbers.Real) and value == 0


def check(config) -> None:
    """Raises UserError for a missing field, a number out of bounds, or a name that does not exist."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"the config is a {type(config).__name__}; get_config() must return a ConfigDict, made by "
                        "base.get_config()")
    for field, bounds in FIELDS.items():
        section = config
        for part in field.split("."):
            if not hasattr(section, "keys") or part not in section:
                raise UserError(f"the config lacks config.{field}; start it from base.get_config()")
            section = section[part]
        if bounds is None:
            continue
        low, high = bounds
        if not isinstance(section, (int, float)) or not low <= section <= high:
            raise UserError(f"config.{field}={section!r} must be a number "
                            + (f"of at least {low}" if high == inf else f"between {low} and {high}"))
    if not all(isinstance(epoch, (int, float)) and epoch >= 0 for epoch in config.schedule.milestones):
        raise UserError(f"config.schedule.milestones={config.schedule.milestones} must be epochs, at least 0")
    if "num_classes" in config.model:
        raise UserError("config.model.num_classes: the data say how many classes there are (config.data.num_classes)")
    try:
        json.dumps(config.to_dict())
    except TypeError as e:
        raise UserError(f"the config holds something else than numbers, text and lists: {e}; a dtype goes by its name, "
                        "'bfloat16'") from e
    from modern_cnn import models
    from modern_cnn.training import devices as mesh
    from modern_cnn.training import finetune, optim

    mesh.check(config.parallel)
    finetune.check(config.finetune)
    models.build(**config.model)
    optim.make_optimizer(config.optimizer, optim.make_schedule(config.schedule, 1.0, 1, 10**9))
