#!/usr/bin/env bash
# A shortcut over the last two convolutions of VGG-13: docs/ablations/vgg_skip.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" vgg.py:vgg13_cifar --config.data.source=cifar10 --sweep=model.initializer=keras,normal \
  --sweep=model.skip=false,true --config.model.width=0.25 --config.optimizer.learning_rate=0.001 \
  --config.data.train_size=10000 --config.epochs=6 "$@"
