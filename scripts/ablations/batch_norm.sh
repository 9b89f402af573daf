#!/usr/bin/env bash
# LeNet with and without batch normalisation across learning rates: docs/ablations/batch_norm.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" lenet.py:lenet_bn --sweep=model.norm=none,batch \
  --sweep=optimizer.learning_rate=0.03,0.1,0.3,1.0,3.0,10.0 --config.schedule.name=constant \
  --config.data.train_size=20000 --config.epochs=5 "$@"
