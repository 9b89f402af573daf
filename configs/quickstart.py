"""LeNet on the handwritten digits that ship inside scikit-learn: nothing to download.

    python scripts/train.py --config=configs/quickstart.py
"""
import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.epochs = 40
    config.eval_every_epochs = 10
    config.log_every_steps = 0
    config.model.name = "lenet_bn"
    config.data.source = "digits"
    config.data.image_size = 28
    config.data.batch_size = 64
    config.augment.rotate = 10.0
    config.augment.zoom = 0.1
    config.augment.shift = 2.0
    config.optimizer.learning_rate = 0.05
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    return config
