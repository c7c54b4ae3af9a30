"""Sizes of the samples and batches in which a calibration set is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingConfig:
    """Number of sampled positions of a layer, and of values in memory at a time.

    Attributes:
        positions: Output positions sampled from a layer's feature maps, over all images; rounded up to whole images.
        batch_values: Input values under the kernel in one batch of sampled positions. Limits the memory.
        chunk_pixels: Pixels of one chunk of images. The feature maps of small networks then stay in the CPU's cache.
        min_chunk_share: Least share of the images in one chunk. Each chunk draws the positions of all chunks before it,
            so many small chunks would be slow.
    """

    positions: int = 2**16
    batch_values: int = 2**24
    chunk_pixels: int = 2**17
    min_chunk_share: float = 1 / 16


DEFAULT_SAMPLING = SamplingConfig()
