"""Steps for a target rate."""

import torch

from basis.gram_statistics import GramStatistics
from quant.rate import columns_hessian, measure_freedoms, round_to_steps


def test_inputs_that_hardly_vary_have_finite_freedoms_and_are_rounded():
    rows = 100 + 1e-5 * torch.randn(1, 4096, 32, generator=torch.Generator().manual_seed(0))
    statistics = GramStatistics.accumulate([rows], [rows[..., :1]], constant=True)
    hessian = columns_hessian(statistics, centered=True)
    freedoms = measure_freedoms(hessian, ())
    assert bool(torch.isfinite(freedoms) & (freedoms > 0))
    columns, exponent = torch.linspace(-1, 1, 64, dtype=torch.float64).view(1, 32, 2), torch.tensor(-64).short()
    rounded = round_to_steps(columns, hessian, exponent, torch.Size((2, 32)))
    assert float((rounded.dequantize() - columns[0].T).norm()) < 0.3
