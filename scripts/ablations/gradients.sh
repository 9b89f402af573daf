#!/usr/bin/env bash
# The size of the gradients by depth: plain against residual networks, sigmoid against ReLU: docs/ablations/gradients.md
. "$(dirname "$0")/../experiment.sh"
record() {  # the name says which panel of the picture, and which line
  sweep "$workdir/$1" "${@:2}" --config.log_norms=true --config.test_every_epoch=false
}
depth() {
  record "$1" resnet.py:resnet20 --config.model.name="$2" --config.model.shortcut="$3" --config.model.width=0.5 \
    --config.data.image_size=16 --config.data.train_size=2000 --config.data.batch_size=64 --config.epochs=2 "${@:4}"
}
lenet() {
  record "$1" lenet.py --config.model.activation="$2" --config.optimizer.learning_rate="$3" \
    --config.schedule.name=constant --config.data.train_size=10000 --config.epochs=6 "${@:4}"
}
lenet "5-LeNet, sigmoid" sigmoid 0.9 "$@"
lenet "6-LeNet, ReLU" relu 0.3 "$@"
depth "1-depth 20, plain" resnet20 none "$@"
depth "2-depth 20, residual" resnet20 pad "$@"
depth "3-depth 56, plain" resnet56 none "$@"
depth "4-depth 56, residual" resnet56 pad "$@"
python scripts/ablate.py --what=gradients --workdir="$workdir"
