#!/usr/bin/env bash
# Dropout and augmentation against overfitting (AlexNet)
# Its page: docs/ablations/regularization.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/regularization}
python scripts/sweep.py --config=configs/alexnet.py:alexnet --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.dropout_rate=0.0,0.5 --sweep=augment.crop=0,8 --config.model.width=0.25 \
  '--config.model.hidden=(512,512)' --config.data.image_size=64 --config.data.validation=0 \
  --config.data.train_size=2000 --config.data.batch_size=100 --config.augment.flip=false \
  --config.optimizer.name=adam --config.optimizer.learning_rate=5e-4 --config.optimizer.weight_decay=0 \
  --config.schedule.name=constant --config.epochs=30 --config.eval_every_epochs=5 --config.test_every_epoch=true \
  --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
