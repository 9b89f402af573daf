"""The layers of a network, what they compute and what they respond to."""
