#!/usr/bin/env bash
# Global average pooling against dense layers (NiN): docs/ablations/nin_head.md
. "$(dirname "$0")/../experiment.sh"
nin() {
  sweep "$1" nin.py:nin_cifar --sweep=model.dropout_rate=0.0,0.5 --config.model.width=0.25 \
    --config.data.image_size=0 --config.data.train_size=2000 --config.data.batch_size=100 \
    --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 --config.optimizer.weight_decay=0 \
    --config.schedule.name=constant --config.epochs=15 --config.eval_every_epochs=5 "${@:2}"
}
nin "$workdir/1-global average" "$@"
nin "$workdir/2-dense layers" '--config.model.hidden=(512,512)' "$@"
