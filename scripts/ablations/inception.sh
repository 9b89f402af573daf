#!/usr/bin/env bash
# Each branch of Inception removed.
#
# Claim: windows of several sizes side by side are better than any of them alone; the 1x1 convolutions keep them
# cheap.
#
# Source: Dive into Deep Learning (Chinese second edition), sections 7.4 and 7.4.1; Szegedy et al. 2014, section 4.
#
# Here: torchvision's GoogLeNet (batch normalisation, 3x3 in the third branch, no auxiliary heads), a quarter of the
# channels, 28x28 pixels, SGD with momentum, 0.05 to 0 by a cosine, 5,000 of the images of Fashion-MNIST, 5 epochs. A
# network without a branch is smaller too: see its parameters.
#
# Full size: --config.model.width=1 --config.data.image_size=96 --config.data.train_size=0 --config.epochs=30
#
# Found: in part, over 3 seeds. Without the 1x1 branch the network loses most (70.0 ± 2.7 % test accuracy against 76.1 ±
# 1.0 %), without the pooling branch a little (73.9 ± 0.9 %); without either branch of wide windows nothing (76.2 ± 2.4
# and 76.3 ± 0.1 %), though without the second it has a quarter of the parameters. In 250 steps on small images it is
# the short ways that count. Took 4 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/inception}
python scripts/sweep.py --config=configs/googlenet.py:googlenet --workdir="$workdir" --sweep=seed=0:3 \
  --sweep='model.branches=(1,2,3,4),(2,3,4),(1,3,4),(1,2,4),(1,2,3)' --config.model.aux_logits=false \
  --config.model.width=0.25 --config.data.image_size=0 --config.data.validation=0 --config.data.train_size=5000 \
  --config.data.batch_size=100 --config.augment.crop=0 --config.augment.flip=false \
  --config.optimizer.learning_rate=0.05 --config.schedule.name=cosine --config.epochs=5 \
  --config.test_every_epoch=true --config.log_every_steps=0 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
