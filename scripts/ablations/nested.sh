#!/usr/bin/env bash
# Nested and non-nested function classes: more layers as identities.
#
# Claim: only where the larger class of functions contains the smaller one are more layers sure not to hurt; a layer
# that can easily become the identity makes it so.
#
# Source: Dive into Deep Learning (Chinese second edition), sections 7.6.1 and 7.6.5.
#
# Here: networks of 3, 9 and 15 blocks without normalisation, half as wide: plain ones with He's weights; plain ones
# whose blocks begin as identities, so that each depth begins as the same function as the one before; and residual ones
# whose blocks begin as identities (pre-activation, last kernel 0). Adam from 1e-3 to 0 by a cosine, 16x16 pixels, 4,000
# of the images of Fashion-MNIST, 6 epochs.
#
# Full size: --config.model.width=1 --config.data.source=cifar10 --config.data.image_size=32 --config.data.train_size=0
# --config.epochs=60
#
# Found: as claimed, over 3 seeds. Plain networks get better from 3 to 9 blocks and worse from 9 to 15 (training loss
# 0.89, 0.70, 0.87 ± 0.28); where each depth begins as the function of the one before, deeper is better every time:
# 0.88, 0.70, 0.66 ± 0.04 for plain networks, 1.17, 0.96, 0.93 ± 0.06 for residual ones, which learn more slowly in
# these 186 steps. Took 8 minutes, beside other work.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/nested}
classes() {
  python scripts/sweep.py --config=configs/resnet.py:resnet20 --sweep=seed=0:3 \
    --sweep='model.stage_sizes=(1,1,1),(3,3,3),(5,5,5)' --config.model.norm=none --config.model.width=0.5 \
    --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 --config.optimizer.weight_decay=0 \
    --config.data.source=fashion_mnist --config.data.image_size=16 --config.data.validation=0 \
    --config.data.train_size=4000 --config.augment.crop=0 --config.augment.flip=false --config.schedule.name=cosine \
    --config.test_every_epoch=true --config.log_every_steps=0 --config.epochs=6 "$@"
}
classes --workdir="$workdir/1-plain" --config.model.shortcut=none "$@"
classes --workdir="$workdir/2-plain, identities" --config.model.shortcut=none --config.model.initializer=identity "$@"
classes --workdir="$workdir/3-residual, identities" --config.model.preactivation=true \
  --config.model.zero_init_residual=true "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
