#!/usr/bin/env bash
# Batch size against batch normalisation
# Its page: docs/ablations/batch_size.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/batch_size}
python scripts/sweep.py --config=configs/lenet.py:lenet_bn --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.norm=batch,none --sweep=data.batch_size=2,8,32,64,128,512 --config.model.activation=relu \
  --config.optimizer.learning_rate=0.1 --config.optimizer.base_batch_size=128 \
  --config.data.train_size=5000 --config.epochs=5 --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
