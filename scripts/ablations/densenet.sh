#!/usr/bin/env bash
# DenseNet's growth rate and compression
# Its page: docs/ablations/densenet.md
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/densenet}
python scripts/sweep.py --config=configs/densenet.py --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.growth=8,16,32 --sweep=model.compression=0.5,1.0 --config.data.image_size=32 \
  --config.data.batch_size=128 --config.data.train_size=6000 --config.schedule.name=cosine --config.epochs=5 \
  --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
