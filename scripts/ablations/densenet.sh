#!/usr/bin/env bash
# DenseNet's growth rate and compression: docs/ablations/densenet.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" densenet.py --sweep=model.growth=8,16,32 --sweep=model.compression=0.5,1.0 \
  --config.data.image_size=32 --config.data.batch_size=128 --config.data.train_size=6000 --config.epochs=5 "$@"
