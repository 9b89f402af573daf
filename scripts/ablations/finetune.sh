#!/usr/bin/env bash
# Fine-tuning against training from scratch
# Its page: docs/ablations/finetune.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/finetune}
network=(--config=configs/resnet.py:resnet20 --config.model.width=0.5 --config.data.image_size=28
  --config.data.validation=0 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=constant
  --config.log_every_steps=0)
python scripts/train.py "${network[@]}" --workdir="$workdir/source" --config.data.source=fashion_mnist \
  --config.data.train_size=20000 --config.optimizer.learning_rate=0.1 --config.epochs=4 "$@"
digits() {
  python scripts/sweep.py "${network[@]}" --sweep=seed=0:3 --sweep=max_steps=12,60,300 \
    --sweep=optimizer.learning_rate=0.01,0.1 --config.data.source=digits --config.data.train_size=300 \
    --config.data.batch_size=50 --config.epochs=100 --config.eval_every_epochs=100 "$@"
}
digits --workdir="$workdir/1-drawn weights" "$@"
digits --workdir="$workdir/2-fine-tuned" --config.finetune.workdir="$workdir/source" "$@"
digits --workdir="$workdir/3-head alone" --config.finetune.workdir="$workdir/source" \
  --config.finetune.freeze=backbone --config.finetune.freeze_statistics=true "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
