#!/usr/bin/env bash
# Nested and non-nested function classes: more layers as identities
# Its page: docs/ablations/nested.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/nested}
classes() {
  python scripts/sweep.py --config=configs/resnet.py:resnet20 --sweep=seed=0:3 \
    --sweep='model.stage_sizes=(1,1,1),(3,3,3),(5,5,5)' --config.model.norm=none --config.model.width=0.5 \
    --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 --config.optimizer.weight_decay=0 \
    --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
    --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
    --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
}
classes --workdir="$workdir/1-plain" --config.model.shortcut=none "$@"
classes --workdir="$workdir/2-plain, identities" --config.model.shortcut=none --config.model.initializer=identity "$@"
classes --workdir="$workdir/3-residual, identities" --config.model.preactivation=true \
  --config.model.zero_init_residual=true "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
