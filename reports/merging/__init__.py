"""Merging of the reports of several runs: read, compare, join, label and relocate their rows."""
