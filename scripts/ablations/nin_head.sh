#!/usr/bin/env bash
# Global average pooling against dense layers (NiN)
# Its page: docs/ablations/nin_head.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/nin_head}
nin() {
  python scripts/sweep.py --config=configs/nin.py:nin_cifar --sweep=seed=0:3 --sweep=model.dropout_rate=0.0,0.5 \
    --config.model.width=0.25 --config.data.source=fashion_mnist --config.data.image_size=0 \
    --config.data.validation=0 --config.data.train_size=2000 --config.data.batch_size=100 \
    --config.augment.flip=false --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 \
    --config.optimizer.weight_decay=0 --config.schedule.name=constant --config.epochs=15 \
    --config.eval_every_epochs=5 --config.test_every_epoch=true --config.log_every_steps=0 "$@"
}
nin --workdir="$workdir/1-global average" "$@"
nin --workdir="$workdir/2-dense layers" '--config.model.hidden=(512,512)' "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
