"""The rows and layers of a report."""

from pipeline.stages.layers import joined_widths
from reports.model import Layer


def layer(config, name, **errors):
    about = dict.fromkeys(("kernel", "order", "reason", "fit_error"))
    return Layer(basis="cosine", config=config, name=name, status="uncompressed row", rounding_error=errors, **about)


def test_a_layer_of_several_variants_is_one_entry_with_every_width():
    first, second = layer("3,2", "conv1", **{"8": 0.1}), layer("dense", "conv1", **{"8": 0.2})
    tuned = layer("dense", "conv1", **{"4": 0.3, "3": 0.4})
    merged = joined_widths([first, second, layer("dense", "fc", **{"8": 0.5}), tuned])
    names = [(each.config, each.name) for each in merged]
    assert names == [("3,2", "conv1"), ("dense", "conv1"), ("dense", "fc")]
    assert merged[1].rounding_error == {"8": 0.2, "4": 0.3, "3": 0.4}
    assert merged[0].rounding_error == {"8": 0.1}
