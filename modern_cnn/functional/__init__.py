"""Layers as pure functions: arrays in, arrays out. `modern_cnn.layers` holds their parameters."""
from modern_cnn.functional.conv import (
    conv2d,
    conv2d_matrix,
    conv2d_transpose,
    depthwise_conv2d,
    locally_connected2d,
    separable_conv2d,
)
from modern_cnn.functional.norm import batch_norm, group_norm, instance_norm, layer_norm, local_response_norm
from modern_cnn.functional.pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from modern_cnn.functional.regularize import dropout

__all__ = ["adaptive_avg_pool", "avg_pool", "batch_norm", "conv2d", "conv2d_matrix", "conv2d_transpose",
           "depthwise_conv2d", "dropout", "global_avg_pool", "group_norm", "instance_norm", "layer_norm",
           "local_response_norm", "locally_connected2d", "max_pool", "separable_conv2d"]
