import pytest

from reports.text import model_name, row_name, stored_bits, width_name


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("resnet18", "ResNet-18"),
        ("resnet110", "ResNet-110"),
        ("convnext_tiny", "ConvNeXt-T"),
        ("wide_resnet50_2", "Wide ResNet-50-2"),
        ("resnext50_32x4d", "ResNeXt-50 32x4d"),
        ("vgg16_bn", "VGG-16 BN"),
        ("my_module:build", "my_module:build"),
    ],
)
def test_models_have_their_printed_names(name: str, printed: str) -> None:
    assert model_name(name) == printed


def test_rows_have_short_names(row) -> None:
    assert row_name(row("chebyshev", "3,3,3,2", 4, 90.0)) == "ChebConv 3,3,3,2 at 4 bits"
    assert row_name(row("cosine", "dense", 3, 90.0)) == "dense at 3 bits"


def test_stored_bits_stand_beside_bits_that_are_others(row) -> None:
    minifloat = row("cosine", "dense", 4, 90.0, scheme="minifloat", stored_bits=12)
    assert row_name(minifloat) == "dense at 4 bits (12 stored)"
    assert width_name(minifloat) == "4 (12 stored)"
    assert width_name(row("cosine", "dense", 4, 90.0)) == "4"


def test_a_report_without_stored_bits_has_integers(row) -> None:
    old = row("cosine", "dense", 4, 90.0)
    del old["stored_bits"]
    assert stored_bits(old) == 4
