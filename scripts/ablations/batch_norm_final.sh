#!/usr/bin/env bash
# Batch normalisation's effect on the final accuracy of LeNet: docs/ablations/batch_norm_final.md
. "$(dirname "$0")/../experiment.sh"
network() {  # each at the rate that suits it: no rate serves sigmoid and ReLU
  sweep "$workdir" lenet.py --sweep=model.activation="$1" --sweep=optimizer.learning_rate="$2" \
    --sweep=model.norm=none,batch --config.data.train_size=20000 --config.epochs=40 "${@:3}"
}
network sigmoid 0.9 "$@"
network relu 0.3 "$@"
