#!/usr/bin/env bash
# DenseNet's growth rate and compression.
#
# Claim: a small growth rate suffices, as every layer sees all maps before it; transitions that halve the channels
# keep the model small at little cost.
#
# Source: Dive into Deep Learning (Chinese second edition), sections 7.7.2 and 7.7.3; Huang et al. 2016, sections 3
# and 4.3.
#
# Here: the textbook's DenseNet, 32x32 pixels, batch 128, SGD from 0.1 to 0 by a cosine, 6,000 of the images of
# Fashion-MNIST, 5 epochs.
#
# Full size: --config.data.image_size=96 --config.data.batch_size=256 --config.data.train_size=0 --config.epochs=10
#
# Found: as claimed, over 3 seeds. A growth rate of 8 has 83.7 ± 0.3 % test accuracy with 85 thousand parameters, four
# times the rate 84.8 ± 0.2 % with nine times as many; transitions that halve the channels save more than half of the
# parameters for 0.5 to 0.7 points at every rate. Took 7 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/densenet}
python scripts/sweep.py --config=configs/densenet.py --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.growth=8,16,32 --sweep=model.compression=0.5,1.0 --config.data.image_size=32 \
  --config.data.batch_size=128 --config.data.train_size=6000 --config.schedule.name=cosine --config.epochs=5 \
  --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
