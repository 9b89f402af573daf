#!/usr/bin/env bash
# Sigmoid against ReLU in LeNet
# Its page: docs/ablations/activations.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/activations}
python scripts/sweep.py --config=configs/lenet.py --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.activation=sigmoid,relu --sweep=optimizer.learning_rate=0.03,0.1,0.3,0.9 \
  --config.data.train_size=20000 --config.epochs=6 --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
