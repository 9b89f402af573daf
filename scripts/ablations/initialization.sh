#!/usr/bin/env bash
# Initialisations of LeNet with and without batch normalisation, sigmoid and ReLU: docs/ablations/initialization.md
. "$(dirname "$0")/../experiment.sh"
network() {  # each at the rate that suits it: no rate serves sigmoid and ReLU
  sweep "$workdir" lenet.py --sweep=model.activation="$1" --sweep=optimizer.learning_rate="$2" \
    --sweep=model.norm=none,batch --sweep=model.initializer=xavier_uniform,torch,resnet,normal \
    --config.schedule.name=constant --config.data.train_size=20000 --config.epochs=6 "${@:3}"
}
network sigmoid 0.9 "$@"
network relu 0.3 "$@"
