"""Steps for a target rate."""

import torch

from basis.gram_statistics import GramStatistics
from quant.rate import columns_hessian, measure_freedoms


def test_inputs_that_hardly_vary_have_a_positive_definite_hessian():
    rows = 100 + 1e-5 * torch.randn(1, 4096, 32, generator=torch.Generator().manual_seed(0))
    statistics = GramStatistics.accumulate([rows], [rows[..., :1]], constant=True)
    hessian = columns_hessian(statistics, centered=True)
    assert float(torch.linalg.eigvalsh(hessian).min()) > 0
    assert bool((measure_freedoms(hessian, ()) > 0).all())
