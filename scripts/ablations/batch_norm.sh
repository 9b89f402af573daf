#!/usr/bin/env bash
# LeNet with and without batch normalisation across learning rates
# Its page: docs/ablations/batch_norm.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/batch_norm}
python scripts/sweep.py --config=configs/lenet.py:lenet_bn --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.norm=none,batch --sweep=optimizer.learning_rate=0.03,0.1,0.3,1.0,3.0,10.0 \
  --config.data.train_size=20000 --config.epochs=5 --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
