#!/usr/bin/env bash
# Dropout and augmentation against overfitting (AlexNet): docs/ablations/regularization.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" alexnet.py:alexnet --sweep=model.dropout_rate=0.0,0.5 --sweep=augment.crop=0,8 \
  --config.model.width=0.25 '--config.model.hidden=(512,512)' --config.data.image_size=64 \
  --config.data.train_size=2000 --config.data.batch_size=100 --config.optimizer.name=adam \
  --config.optimizer.learning_rate=5e-4 --config.optimizer.weight_decay=0 --config.schedule.name=constant \
  --config.epochs=30 --config.eval_every_epochs=5 "$@"
