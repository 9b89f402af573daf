#!/usr/bin/env bash
# Plain against residual networks at growing depth.
#
# Claim: more layers make a plain network worse, in training too (the degradation problem); with shortcuts deeper is
# better.
#
# Source: He et al. 2015, sections 1 and 4.2; the notes on the textbook's first edition, chapter 5: in practice too
# many layers raise the training error.
#
# Here: the paper's networks for CIFAR, half as wide, depths 20, 32 and 56, with shortcuts ('pad') and without ('none'),
# 16x16 pixels, batch 128, SGD with momentum, 0.1 to 0 by a cosine, 4,000 of the images of Fashion-MNIST, 6 epochs.
#
# Full size: --config.model.width=1 --config.data.source=cifar10 --config.data.image_size=32 --config.data.train_size=0
# --config.augment.crop=4 --config.augment.flip=true --config.epochs=182 --config.schedule.name=step
#
# Found: as claimed of plain networks, over 3 seeds: the training loss rises with depth from 0.58 ± 0.04 to 0.72 ± 0.12
# and 1.55 ± 0.40, the test accuracy falls from 76.6 ± 0.6 % to 41.4 ± 15.1 %. With shortcuts every depth does better
# (0.36 ± 0.03, 0.39 ± 0.03 and 0.60 ± 0.13; 82.9 ± 0.5 % to 75.2 ± 3.3 %), but 186 steps are too few for deeper to be
# better. Took 6 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/residual}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.shortcut=none,pad --sweep=model.name=resnet20,resnet32,resnet56 --config.model.width=0.5 \
  --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
  --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
  --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
