"""Attention over any number of axes is in the graph, and equals torch's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.artifact import Identity
from pipeline.artifact.record import record_network
from pipeline.onnx.file import OnnxExporter
from pipeline.onnx.session import open_session, run_session

IDENTITY = Identity("net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (8, 8))


class Attention(nn.Module):
    """Attention among the pixels of each image; subclasses choose the axes and the mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.keys, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def attend(self, x):
        return functional.scaled_dot_product_attention(x, self.keys(x), x)

    def forward(self, x):
        return self.head(self.attend(self.conv(x).flatten(2).mT).mean(1))


class Masked(Attention):
    def attend(self, x):
        mask = 5 * torch.eye(x.shape[1])
        return functional.scaled_dot_product_attention(x, self.keys(x), x, attn_mask=mask[None], scale=2.0)


class Windows(Attention):
    """(images, heads, windows, pixels, channels), as in Hiera."""

    def attend(self, x):
        heads = [each.unflatten(1, (2, 2, 9)) for each in (x, self.keys(x))]
        mask = torch.arange(2 * 2 * 9.0).view(1, 2, 2, 1, 9)
        return functional.scaled_dot_product_attention(*heads, heads[0], mask).flatten(1, 3)


class Heads(Attention):
    def attend(self, x):
        heads = [each.unflatten(2, (2, 4)).transpose(1, 2) for each in (x, self.keys(x))]
        return functional.scaled_dot_product_attention(*heads, heads[0], is_causal=True).transpose(1, 2).flatten(2)


class Length(Attention):
    """The number of images is read as a number of Python."""

    def forward(self, x):
        return super().forward(x).view(len(x), -1) + torch.zeros(len(x), 4)


class Transformer(Attention):
    """torch's own layers, which have a fused kernel, on a first token for each image, whose number is Python's."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def attend(self, x):
        x = self.encoder(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.last(x, x, x)[0]


@pytest.mark.parametrize("kind", [Attention, Masked, Windows, Heads, Length, Transformer])
def test_attention_equals_torchs(kind):
    network, images = kind().eval(), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    session = open_session(OnnxExporter().file(record_network(network, {}), network, IDENTITY))
    with torch.no_grad():
        assert torch.allclose(run_session(session, images), network(images), atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
