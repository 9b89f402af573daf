#!/usr/bin/env bash
# LeNet with and without batch normalisation across learning rates.
#
# Claim: batch normalisation speeds convergence up and allows larger learning rates.
#
# Source: Dive into Deep Learning (Chinese second edition), sections 7.5 and 7.5.4, which trains with a rate of 1.0
# with it and 0.9 without; the TensorFlow text, section 10.8; Ioffe and Szegedy 2015.
#
# Here: the unpadded LeNet with sigmoids, batch 256, plain SGD at six rates, 20,000 of the images of Fashion-MNIST, 5
# epochs (390 steps).
#
# Full size: --config.data.train_size=0 --config.epochs=10
#
# Found: not run yet
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/batch_norm}
python scripts/sweep.py --config=configs/lenet.py:lenet_bn --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.norm=none,batch --sweep=optimizer.learning_rate=0.03,0.1,0.3,1.0,3.0,10.0 \
  --config.data.train_size=20000 --config.epochs=5 --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
