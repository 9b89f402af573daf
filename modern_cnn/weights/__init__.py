"""Convert weights from PyTorch and back: torchvision's state dicts and the textbook's, bit for bit."""
from modern_cnn.weights.convert import (
    TORCHVISION,
    from_torchvision,
    network_of,
    normalize_of,
    stack_blocks,
    to_torchvision,
    unstack_blocks,
)

__all__ = ["TORCHVISION", "from_torchvision", "network_of", "normalize_of", "stack_blocks", "to_torchvision",
           "unstack_blocks"]
