"""The reader on mutated files: each is refused in one sentence, or is a network that fits; nothing else happens.

``SERIESQUANT_FUZZ`` gives the number of files (20,000 by default) and ``SERIESQUANT_FUZZ_SEED`` another series of them.
"""

import os
import random
import resource
from io import BytesIO

import pytest
import torch
from torch import nn

from basis.errors import CompressionError
from pipeline.artifact import serialize
from pipeline.artifact.codec import decode
from pipeline.artifact.container import split
from pipeline.artifact.header import read_header
from pipeline.artifact.record import build_network, check_shapes, record_network
from tests.pipeline.artifact.mutations import Story, damaged_bytes
from tests.pipeline.artifact.samples import IDENTITY, compressed, stepped

FILES = int(os.environ.get("SERIESQUANT_FUZZ", "20000"))
SEED = int(os.environ.get("SERIESQUANT_FUZZ_SEED", "0"))
MOST_MEGABYTES = 100


def slim_network() -> nn.Module:
    """The layers of ``tiny_network`` with fewer channels: what takes time is the decoding of the integers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 5, padding=2, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding="same", groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 5, 3, stride=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(5), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()


@pytest.fixture(scope="module")
def originals():
    records = [
        compressed(4, "cosine", network=slim_network),
        compressed(3, "chebyshev", "minifloat", network=slim_network),
        stepped(network=slim_network),
        record_network(slim_network(), {}),
    ]
    return [serialize(record, IDENTITY) for record in records]


def megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def refusal(content: bytes, network: nn.Module) -> str | None:
    """Why a file is refused; None when it is accepted, and then fills the network."""
    try:
        contents = split(BytesIO(content))
        read_header(contents.text)
        _, record = decode(contents)
        check_shapes(record, network)
    except CompressionError as error:
        return str(error)
    build_network(record, network)
    return None


def accepted(content: bytes, network: nn.Module) -> bool:
    """Return True if a file is accepted; a refusal must be one short sentence that names what is allowed."""
    sentence = refusal(content, network)
    assert sentence is None or ("allow" in sentence and len(sentence) < 2000), sentence
    return sentence is None


def test_damaged_bytes_are_always_refused(originals):
    rng, before, network = random.Random(SEED), megabytes(), slim_network()
    for number in range(FILES - FILES // 4):
        content = damaged_bytes(originals[number % len(originals)], rng)
        assert not accepted(content, network), f"file {number} of seed {SEED} was accepted"
    assert megabytes() - before < MOST_MEGABYTES


def test_damage_with_a_right_checksum_is_refused_or_harmless(originals):
    rng, before, network = random.Random(SEED), megabytes(), slim_network()
    stories, harmless = [Story(content) for content in originals], 0
    for number in range(FILES // 4):
        harmless += accepted(stories[number % len(stories)].mutated(rng), network)
    assert 0 < harmless < FILES / 8  # other codes, names and statistics are files as good as the original
    assert megabytes() - before < MOST_MEGABYTES


def test_the_originals_are_accepted(originals):
    assert all(accepted(content, slim_network()) for content in originals)
