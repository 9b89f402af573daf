"""The quickstart with a network of 658 parameters, on the images as they are: it compiles in a second."""
from configs import base, quickstart


def get_config() -> base.ConfigDict:
    """A convolution, batch norm, pooling, a dense layer, dropout if a test asks for it; all else as the quickstart."""
    config = quickstart.get_config()
    config.data.image_size = 0
    config.model.update(name="vgg11", norm="batch", stage_sizes=(1,), stage_features=(4,), hidden=(8,), pooled_size=0,
                        initializer="xavier_uniform", dropout_rate=0.0)
    return config
