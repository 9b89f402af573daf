#!/usr/bin/env bash
# Each branch of Inception removed: docs/ablations/inception.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" googlenet.py:googlenet '--sweep=model.branches=(1,2,3,4),(2,3,4),(1,3,4),(1,2,4),(1,2,3)' \
  --config.model.aux_logits=false --config.model.width=0.25 --config.data.image_size=0 --config.data.train_size=5000 \
  --config.data.batch_size=100 --config.optimizer.learning_rate=0.05 --config.epochs=5 "$@"
