"""Families of kernels that are not linear in their parameters: FracSRF and Fractional."""
