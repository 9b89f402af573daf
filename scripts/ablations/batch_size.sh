#!/usr/bin/env bash
# Batch size against batch normalisation.
#
# Claim: batch normalisation works best with batches of 50 to 100 images: smaller ones make its statistics too noisy,
# larger ones take its regularising noise away.
#
# Source: Dive into Deep Learning (Chinese second edition), section 7.5.1.
#
# Here: LeNet with ReLU, with batch normalisation and without, the rate in proportion to the batch (0.1 at 128), 5,000
# of the images of Fashion-MNIST, 5 epochs: the larger the batch, the fewer the steps.
#
# Full size: --config.data.train_size=0 --config.epochs=10
#
# Found: as claimed, over 3 seeds: with batch normalisation batches of 64 and 32 do best (82.1 ± 0.6 and 81.8 ± 1.1 %
# test accuracy); with 2 images it hardly learns (34.6 ± 10.6 %), with 128 and 512 it scores less (78.3 ± 5.2 and 77.9 ±
# 0.2 %), though these are also fewer steps. Without it the smaller the batch the better, from 74.7 ± 0.5 % at 2 to 32.5
# ± 17.1 % at 512. Took 2 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/batch_size}
python scripts/sweep.py --config=configs/lenet.py:lenet_bn --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.norm=batch,none --sweep=data.batch_size=2,8,32,64,128,512 --config.model.activation=relu \
  --config.optimizer.learning_rate=0.1 --config.optimizer.base_batch_size=128 \
  --config.data.train_size=5000 --config.epochs=5 --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
