#!/usr/bin/env bash
# Deep with narrow kernels against shallow with wide ones (VGG).
#
# Claim: two layers of 3x3 are better than one of 5x5, which sees as much: 7 points of accuracy on ImageNet.
#
# Source: Dive into Deep Learning (Chinese second edition), section 7.2.4; Simonyan and Zisserman 2014, sections 2.3
# and 4.1.
#
# Here: the TensorFlow text's VGG-13 with batch normalisation, a quarter of the channels: two convolutions of 3x3 in a
# block against one of 5x5, and one of 3x3; 32x32 pixels, Adam from 1e-3 to 0 by a cosine, 5,000 of the images of
# Fashion-MNIST, 6 epochs.
#
# Full size: --config.model.width=1 --config.data.source=cifar10 --config.data.train_size=0 --config.epochs=50
#
# Found: not so here, over 3 seeds. Two layers of 3x3 fit the training images better than one of 5x5 (loss 0.052 ± 0.011
# against 0.121 ± 0.028) with fewer parameters, but score less on the test images (86.4 ± 0.1 % against 87.2 ± 0.3 %),
# as one layer of 3x3 does (86.7 ± 0.2 %): with 5,000 images what limits is the data, not the network. Took 5 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/deep_narrow}
kernels() {
  python scripts/sweep.py --config=configs/vgg.py:vgg13_cifar --workdir="$workdir" --sweep=seed=0:3 \
    --config.model.width=0.25 --config.model.norm=batch --config.data.source=fashion_mnist \
    --config.data.train_size=5000 --config.data.batch_size=100 --config.optimizer.learning_rate=1e-3 \
    --config.schedule.name=cosine --config.epochs=6 --config.log_every_steps=0 "$@"
}
kernels --sweep=model.kernel_size=3 '--sweep=model.stage_sizes=(1,1,1,1,1),(2,2,2,2,2)' "$@"
kernels --sweep=model.kernel_size=5 '--sweep=model.stage_sizes=(1,1,1,1,1)' "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
