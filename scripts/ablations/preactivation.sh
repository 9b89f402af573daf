#!/usr/bin/env bash
# Post- against pre-activation.
#
# Claim: normalising and rectifying before the convolutions, so that the shortcuts are identities from end to end,
# trains very deep networks more easily and generalises better.
#
# Source: He et al. 2016, "Identity mappings in deep residual networks", section 4: at depth 110 and more; DenseNet's
# blocks are built so (the textbook's section 7.7.2).
#
# Here: the networks for CIFAR, half as wide, depths 20 and 56, 16x16 pixels, batch 128, SGD with momentum, 0.1 to 0 by
# a cosine, 4,000 of the images of Fashion-MNIST, 6 epochs.
#
# Full size: --config.model.width=1 --config.data.source=cifar10 --config.data.image_size=32 --config.data.train_size=0
# --config.augment.crop=4 --config.augment.flip=true --config.epochs=182 --config.schedule.name=step; depth 110 by
# another call of sweep.py with --sweep=model.name=resnet110
#
# Found: as claimed, over 3 seeds: at depth 56 pre-activation has a training loss of 0.47 ± 0.03 against 0.60 ± 0.13,
# and 79.6 ± 1.7 % test accuracy against 75.2 ± 3.3 %; at depth 20 they are alike (82.6 ± 0.5 and 82.9 ± 0.5 %). Took 7
# minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/preactivation}
python scripts/sweep.py --config=configs/resnet.py:resnet20 --workdir="$workdir" --sweep=seed=0:3 \
  --sweep=model.name=resnet20,resnet56 --sweep=model.preactivation=false,true --config.model.width=0.5 \
  --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
  --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
  --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
