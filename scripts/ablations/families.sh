#!/usr/bin/env bash
# All families side by side: parameters, multiply-accumulates, accuracy.
#
# Claim: each family does better than the one before, and the later ones with fewer parameters and less computation.
#
# Source: Dive into Deep Learning (Chinese second edition), chapter 7: the introduction and the summaries of its
# sections (NiN fewer parameters, GoogLeNet similar accuracy at lower cost, DenseNet better at a high cost).
#
# Here: one recipe for all, Adam from 1e-3 to 0 by a cosine, batch 100, 5,000 of the images of Fashion-MNIST, 5 epochs;
# 32x32 pixels, for AlexNet 64x64, which cannot take fewer; AlexNet, VGG, NiN and GoogLeNet a quarter as wide, their
# dense layers 512.
#
# Full size: --config.model.width=1 --config.data.train_size=0 --config.epochs=50, and the networks' own image sizes.
#
# Found: in part, over 3 seeds. DenseNet comes first (85.1 ± 0.3 % test accuracy, 0.76 M parameters), and VGG (84.3 %),
# ResNet-20 (83.9 %) and GoogLeNet (82.1 %, at a twentieth of ResNet-20's computation) follow; but so does the MLP (84.1
# ± 0.4 %). What parts them after 250 steps is batch normalisation: AlexNet (75.0 %), LeNet (58.9 %) and NiN (58.7 %),
# which have none, have not converged. Took 8 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/families}
family() {  # the number is its place in the table
  name=$1 config=$2; shift 2
  python scripts/sweep.py --config="configs/$config" --workdir="$workdir/$name" --sweep=seed=0:3 \
    --config.data.source=fashion_mnist --config.data.image_size=32 --config.data.train_size=5000 \
    --config.data.batch_size=100 --config.data.validation=0 --config.data.normalize=standard \
    --config.augment.crop=0 --config.augment.flip=false --config.optimizer.name=adam \
    --config.optimizer.learning_rate=1e-3 --config.optimizer.weight_decay=0 --config.schedule.name=cosine \
    --config.epochs=5 --config.test_every_epoch=true --config.log_every_steps=0 "$@"
}
family 1-mlp mlp.py "$@"
family 2-lenet lenet.py:lenet "$@"
family 3-alexnet alexnet.py:alexnet --config.data.image_size=64 --config.model.width=0.25 \
  '--config.model.hidden=(512,512)' "$@"
family 4-vgg11_bn vgg.py:vgg11_bn --config.model.width=0.25 '--config.model.hidden=(512,512)' "$@"
family 5-nin nin.py:nin_cifar --config.model.width=0.25 "$@"
family 6-googlenet googlenet.py:googlenet --config.model.width=0.25 --config.model.aux_logits=false "$@"
family 7-resnet20 resnet.py:resnet20 "$@"
family 8-densenet densenet.py "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
