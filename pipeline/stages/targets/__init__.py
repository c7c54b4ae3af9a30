"""Compress a network to a target: the range of sizes, what is measured once, the search of a size, and the rows."""
