#!/usr/bin/env bash
# Post- against pre-activation: docs/ablations/preactivation.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" resnet.py:resnet20 --sweep=model.name=resnet20,resnet56 --sweep=model.preactivation=false,true \
  --config.model.width=0.5 --config.data.image_size=16 --config.data.train_size=4000 --config.epochs=6 "$@"
