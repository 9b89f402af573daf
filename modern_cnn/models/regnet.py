"""RegNet: stages of ResNeXt's blocks by a few rules (Radosavovic et al. 2020, "Designing network design spaces").

The paper draws many networks from a space, AnyNet, and finds what the good ones share: blocks that are not narrower
inside, groups of one width, and widths and depths that grow from stage to stage. Those are the RegNets.
"""
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from modern_cnn import functional as F
from modern_cnn.errors import UserError, lookup
from modern_cnn.layers import Dropout, scaled
from modern_cnn.models.base import SMALL_STEMS, ConvNet, Variant, run_stage, stages
from modern_cnn.models.resnet import Bottleneck


class AnyNet(ConvNet, kw_only=True):
    """A stem, stages of blocks, global average pooling and a dense layer (figure 3). Each stage halves the map.

    Call: images [N, H, W, C] float -> logits [N, num_classes].

    Attributes:
      stage_sizes, stage_features: number of blocks of each stage, and their channels before `width`.
      group_width: channels of each group of the 3x3 convolutions, before `width`; it must divide `stage_features`. The
        number of groups does not depend on `width`.
      stem: 'imagenet', 3x3 with stride 2; 'cifar', 3x3 with stride 1.
      stem_features: the stem's channels, before `width`.
      zero_init_residual: begin with blocks that are the identity (Goyal et al. 2017, section 5.1).
      use_bias: give the convolutions biases; without normalisation they always have them.
      remat: store only each block's input for the backward pass, and compute the rest again.
      scan: run the blocks of a stage after the first as a loop over one block, as in `ResNet`.
    """
    stage_sizes: Sequence[int]
    stage_features: Sequence[int]
    group_width: int
    stem: str = "imagenet"
    stem_features: int = 32
    zero_init_residual: bool = False
    use_bias: bool = False
    norm: str = "batch"
    initializer: str = "vgg"  # torchvision's RegNets begin as its VGGs do
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if self.zero_init_residual and self.norm == "none":
            raise UserError("zero_init_residual sets the scale of a normalisation, but norm='none': leave one out")
        conv, dense, norm = self.constructors(train)
        conv = partial(conv, use_bias=self.use_bias or self.norm == "none")
        block = partial(nn.remat(Bottleneck) if self.remat else Bottleneck, expansion=1,
                        zero_init=self.zero_init_residual, conv=conv, norm=norm)

        stem = lookup(SMALL_STEMS, self.stem, "stem")
        x = nn.relu(norm(name="norm1")(conv(scaled(self.stem_features, self.width), **stem, name="conv1")(x)))
        self.sow("intermediates", "stem", x)
        for stage, (size, features) in enumerate(stages(self.stage_sizes, self.stage_features), start=1):
            groups, rest = divmod(features, self.group_width)
            if rest:
                raise UserError(f"group_width={self.group_width} must divide stage_features={self.stage_features}")
            grouped = partial(block, scaled(features, self.width), groups=groups,
                              inside=groups * scaled(self.group_width, self.width))
            x = run_stage(x, grouped, size, strides=2, name=f"stage{stage}", scan=self.scan)
            self.sow("intermediates", f"stage{stage}", x)
        x = Dropout(self.dropout_rate, train)(F.global_avg_pool(x))
        return dense(self.num_classes, name="dense")(x)


VARIANTS = {
    # 15,296,552 parameters. The paper's rule gives these stages from 25 blocks, w_0 = 88, w_a = 26.31 and w_m = 2.25.
    "regnet_x_3_2gf": Variant(
        AnyNet, {"stage_sizes": (2, 6, 15, 2), "stage_features": (96, 192, 432, 1008), "group_width": 48},
        (224, 224, 3), 1000, "torchvision's, the paper's RegNetX-3.2GF", torchvision=True),
    "regnetx32_d2l": Variant(  # 179,290 parameters
        AnyNet, {"stage_sizes": (4, 6), "stage_features": (32, 80), "group_width": 16, "use_bias": True,
                 "initializer": "xavier_uniform"}, (96, 96, 1), 10, "the textbook's, 8.8 of its English edition"),
}
