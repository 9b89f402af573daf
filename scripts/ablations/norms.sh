#!/usr/bin/env bash
# Batch, layer, instance, group and no normalisation
# Its page: docs/ablations/norms.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/norms}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.norm=batch,layer,instance,group,none '--config.model.stage_sizes=(1,1)' \
  '--config.model.stage_features=(64,128)' --config.data.source=fashion_mnist --config.data.image_size=14 \
  --config.data.validation=0 --config.data.train_size=6000 --config.augment.crop=0 --config.augment.flip=false \
  --config.optimizer.learning_rate=0.05 --config.schedule.name=cosine --config.epochs=5 \
  --config.test_every_epoch=true --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
