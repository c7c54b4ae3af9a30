"""The precision of products, set by either of PyTorch's two kinds of settings."""

from pathlib import Path

import pytest
import torch

from pipeline.models.registry import build_model
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.products import product_precisions, set_product_precisions
from pipeline.stages.context import cache_environment
from tests.support.networks import forget_modules

SETTINGS = (
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "torch.backends.cudnn.allow_tf32 = False",
)
if not hasattr(torch.backends, "fp32_precision"):  # before PyTorch 2.9
    SETTINGS = SETTINGS[:2]


@pytest.fixture(autouse=True)
def before():
    found = product_precisions()
    yield found
    set_product_precisions(found)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_read_set_and_part_of_the_cache_key(before, setting):
    accelerator = make_accelerator("cpu")
    environment = cache_environment(accelerator)
    exec(setting, {"torch": torch})
    changed = product_precisions()
    assert changed != before
    assert cache_environment(accelerator) != environment
    set_product_precisions(before)
    assert product_precisions() == before
    assert torch.get_float32_matmul_precision() == "highest", "PyTorch refuses it after the newer settings"
    assert torch.backends.cudnn.allow_tf32, "PyTorch refuses it if the settings of cuDNN contradict each other"
    set_product_precisions(changed)
    assert product_precisions() == changed


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_a_users_module_ends_with_its_import(before, setting, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("precise_net.py").write_text(f"import torch\n{setting}\nmake = torch.nn.Identity\n")
    build_model("precise_net.py:make", 2)
    forget_modules(tmp_path)
    assert product_precisions() == before
