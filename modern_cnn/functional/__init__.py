"""Layers as pure functions: arrays in, arrays out. `modern_cnn.layers` holds their parameters."""
from modern_cnn.functional.conv import conv2d, locally_connected2d
from modern_cnn.functional.norm import batch_norm
from modern_cnn.functional.pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from modern_cnn.functional.regularize import dropout

__all__ = ["adaptive_avg_pool", "avg_pool", "batch_norm", "conv2d", "dropout", "global_avg_pool",
           "locally_connected2d", "max_pool"]
