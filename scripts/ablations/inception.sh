#!/usr/bin/env bash
# Each branch of Inception removed
# Its page: docs/ablations/inception.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/inception}
python scripts/sweep.py --config=configs/googlenet.py:googlenet --workdir="$workdir" --sweep=seed=0:3 \
  --sweep='model.branches=(1,2,3,4),(2,3,4),(1,3,4),(1,2,4),(1,2,3)' --config.model.aux_logits=false \
  --config.model.width=0.25 --config.data.image_size=0 --config.data.validation=0 --config.data.train_size=5000 \
  --config.data.batch_size=100 --config.augment.crop=0 --config.augment.flip=false \
  --config.optimizer.learning_rate=0.05 --config.schedule.name=cosine --config.epochs=5 \
  --config.test_every_epoch=true --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
