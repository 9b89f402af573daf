#!/usr/bin/env bash
# Learned against hand-made features as data grow: docs/ablations/features.md
. "$(dirname "$0")/../experiment.sh"
python scripts/ablate.py --what=handmade --config=configs/lenet.py --sizes=300,1000,3000,10000,60000 \
  --workdir="$workdir/1-histograms of gradients, linear" "$@"
sweep "$workdir/2-LeNet" lenet.py:lenet_relu_bn --sweep=data.train_size=300,1000,3000,10000,60000 \
  --config.data.batch_size=128 --config.optimizer.learning_rate=0.02 --config.optimizer.momentum=0.9 \
  --config.data.normalize=standard --config.epochs=1000 --config.max_steps=1500 --config.eval_every_epochs=1000 \
  --config.schedule.name=constant --config.test_every_epoch=false "$@"
