#!/usr/bin/env bash
# All families side by side: parameters, multiply-accumulates, accuracy: docs/ablations/families.md
. "$(dirname "$0")/../experiment.sh"
family() {  # the number is its place in the table
  sweep "$workdir/$1" "$2" --config.data.image_size=32 --config.data.train_size=5000 --config.data.batch_size=100 \
    --config.data.normalize=standard --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 \
    --config.optimizer.weight_decay=0 --config.epochs=5 "${@:3}"
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
