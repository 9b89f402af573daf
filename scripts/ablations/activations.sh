#!/usr/bin/env bash
# Sigmoid against ReLU in LeNet: docs/ablations/activations.md
. "$(dirname "$0")/../experiment.sh"
sweep "$workdir" lenet.py --sweep=model.activation=sigmoid,relu --sweep=optimizer.learning_rate=0.03,0.1,0.3,0.9 \
  --config.schedule.name=constant --config.data.train_size=20000 --config.epochs=6 "$@"
