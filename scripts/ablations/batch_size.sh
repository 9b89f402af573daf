#!/usr/bin/env bash
# Batch size against batch normalisation: docs/ablations/batch_size.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" lenet.py:lenet_bn --sweep=model.norm=batch,none --sweep=data.batch_size=2,8,32,64,128,512 \
  --config.model.activation=relu --config.optimizer.learning_rate=0.1 --config.optimizer.base_batch_size=128 \
  --config.schedule.name=constant --config.data.train_size=5000 --config.epochs=5 "$@"
