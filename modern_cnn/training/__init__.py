"""From a config to a trained network: state, steps, optimisers, metrics, checkpoints, logs and the loop around them."""
