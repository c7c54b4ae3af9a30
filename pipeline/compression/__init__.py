"""Compress a network in memory, for notebooks and training scripts."""
