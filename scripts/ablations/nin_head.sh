#!/usr/bin/env bash
# Global average pooling against dense layers (NiN).
#
# Claim: without dense layers, which overfit easily, NiN has far fewer parameters and overfits less; it may take
# longer to train.
#
# Source: Dive into Deep Learning (Chinese second edition), sections 7.3.2 and 7.3.4; Lin et al. 2013, sections 3.2
# and 4.6.
#
# Here: the authors' NiN for CIFAR-10, a quarter of the channels; against it dense layers of 512 units (none: the global
# average) after the second block; with dropout and without; Adam at 1e-3, 2,000 of the images of Fashion-MNIST, 15
# epochs.
#
# Full size: --config.model.width=1 --config.data.source=cifar10 --config.data.train_size=0 --config.epochs=100
#
# Found: in part, over 3 seeds. NiN has a twenty-fifth of the parameters, and where dense layers overfit (92.3 % on the
# training images, 83.3 ± 1.8 % on the test images) it does not (70.5 and 68.6 ± 6.0 %); but it learns so much more
# slowly that after 300 steps it is far behind, with and without dropout. Took 4 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
workdir=${WORKDIR:-runs/ablations/nin_head}
nin() {
  python scripts/sweep.py --config=configs/nin.py:nin_cifar --sweep=seed=0:3 --sweep=model.dropout_rate=0.0,0.5 \
    --config.model.width=0.25 --config.data.source=fashion_mnist --config.data.image_size=0 \
    --config.data.validation=0 --config.data.train_size=2000 --config.data.batch_size=100 \
    --config.augment.flip=false --config.optimizer.name=adam --config.optimizer.learning_rate=1e-3 \
    --config.optimizer.weight_decay=0 --config.schedule.name=constant --config.epochs=15 \
    --config.eval_every_epochs=5 --config.test_every_epoch=true --config.log_every_steps=0 "$@"
}
nin --workdir="$workdir/1-global average" "$@"
nin --workdir="$workdir/2-dense layers" '--config.model.hidden=(512,512)' "$@"
{ echo "$SECONDS"; times; } >> "$workdir/seconds"
