#!/usr/bin/env bash
# Fine-tuning against training from scratch: docs/ablations/finetune.md
. "$(dirname "$0")/../experiment.sh"
network=(--config.model.width=0.5 --config.data.image_size=28 --config.schedule.name=constant)
python scripts/train.py --config=configs/resnet.py:resnet20 --workdir="$workdir/source" "${network[@]}" \
  --config.data.source=fashion_mnist --config.data.validation=0 --config.data.train_size=20000 --config.augment.crop=0 \
  --config.augment.flip=false --config.optimizer.learning_rate=0.1 --config.epochs=4 --config.log_every_steps=0 "$@"
digits() {
  sweep "$1" resnet.py:resnet20 "${network[@]}" --sweep=max_steps=12,60,300 --sweep=optimizer.learning_rate=0.01,0.1 \
    --config.data.source=digits --config.data.train_size=300 --config.data.batch_size=50 --config.epochs=100 \
    --config.eval_every_epochs=100 --config.test_every_epoch=false "${@:2}"
}
digits "$workdir/1-drawn weights" "$@"
digits "$workdir/2-fine-tuned" --config.finetune.workdir="$workdir/source" "$@"
digits "$workdir/3-head alone" --config.finetune.workdir="$workdir/source" --config.finetune.freeze=backbone \
  --config.finetune.freeze_statistics=true "$@"
