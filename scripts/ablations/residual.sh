#!/usr/bin/env bash
# Plain against residual networks at growing depth: docs/ablations/residual.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" resnet.py:resnet20 --sweep=model.shortcut=none,pad --sweep=model.name=resnet20,resnet32,resnet56 \
  --config.model.width=0.5 --config.data.image_size=16 --config.data.train_size=4000 --config.epochs=6 "$@"
