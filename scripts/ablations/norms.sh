#!/usr/bin/env bash
# Batch, layer, instance, group and no normalisation: docs/ablations/norms.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" resnet.py:resnet20 --sweep=model.norm=batch,layer,instance,group,none \
  '--config.model.stage_sizes=(1,1)' '--config.model.stage_features=(64,128)' --config.data.image_size=14 \
  --config.data.train_size=6000 --config.optimizer.learning_rate=0.05 --config.epochs=5 "$@"
