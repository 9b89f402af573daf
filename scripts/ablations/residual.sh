#!/usr/bin/env bash
# Plain against residual networks at growing depth: docs/ablations/residual.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" resnet.py:resnet20 --config.data.source=cifar10 --sweep=model.shortcut=pad,none \
  --sweep=model.name=resnet20,resnet32,resnet56 --config.model.width=0.25 --config.data.image_size=16 \
  --config.epochs=8 "$@"
