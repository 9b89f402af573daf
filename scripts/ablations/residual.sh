#!/usr/bin/env bash
# Plain against residual networks at growing depth
# Its page: docs/ablations/residual.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/residual}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.shortcut=none,pad --sweep=model.name=resnet20,resnet32,resnet56 --config.model.width=0.5 \
  --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
  --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
  --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
