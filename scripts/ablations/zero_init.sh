#!/usr/bin/env bash
# Residual blocks that begin as identities: docs/ablations/zero_init.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" resnet.py:resnet20 --sweep=model.zero_init_residual=false,true \
  --sweep=optimizer.learning_rate=0.03,0.1,0.3,1.0 --config.model.width=0.5 --config.data.image_size=16 \
  --config.data.train_size=4000 --config.epochs=4 "$@"
