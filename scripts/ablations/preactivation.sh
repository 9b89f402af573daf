#!/usr/bin/env bash
# Post- against pre-activation
# Its page: docs/ablations/preactivation.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/preactivation}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.name=resnet20,resnet56 --sweep=model.preactivation=false,true --config.model.width=0.5 \
  --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
  --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
  --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
