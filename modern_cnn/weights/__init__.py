"""Conversion of weights from PyTorch and back, bit for bit: torchvision's state dicts and the textbook's."""
from modern_cnn.weights.convert import (
    TORCHVISION,
    expected_normalize,
    from_torchvision,
    matching_network,
    own_names,
    stack_blocks,
    to_torchvision,
    unstack_blocks,
)

__all__ = ["TORCHVISION", "expected_normalize", "from_torchvision", "matching_network", "own_names",
           "stack_blocks", "to_torchvision", "unstack_blocks"]
