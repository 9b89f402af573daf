"""Conversion of weights from PyTorch and back, bit for bit: torchvision's state dicts and the textbook's."""
from modern_cnn.weights.convert import from_torchvision, to_torchvision

__all__ = ["from_torchvision", "to_torchvision"]
