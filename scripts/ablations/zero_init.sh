#!/usr/bin/env bash
# Residual blocks that begin as identities
# Its page: docs/ablations/zero_init.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/zero_init}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.zero_init_residual=false,true --sweep=optimizer.learning_rate=0.03,0.1,0.3,1.0 \
  --config.model.width=0.5 --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
  --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
  --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=4 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
