"""The stages of a run: baseline, approximate, train, quantize, evaluate, export, verify, report."""
