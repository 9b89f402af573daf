#!/usr/bin/env bash
# All families side by side: parameters, multiply-accumulates, accuracy
# Its page: docs/ablations/families.md
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
