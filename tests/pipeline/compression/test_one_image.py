"""``compress`` to a target with one image, of which a linear layer after pooling sees a single row."""

import torch

from pipeline import compress
from tests.pipeline.compression.two_convolutions import IMAGES, Net


def test_a_target_keeps_the_weights_of_a_layer_with_a_single_row():
    network = Net().eval()
    result = compress(network, IMAGES[:1], target_mb=0.0012)
    assert result.target_met
    with torch.no_grad():
        torch.testing.assert_close(result.network(IMAGES), network(IMAGES), rtol=0, atol=0.01)
        spread = (network(IMAGES).std(0), result.network(IMAGES).std(0))
    torch.testing.assert_close(spread[1], spread[0], rtol=0.2, atol=0)
