"""Options of a run: values, files, the grammar of configs, and the grid of variants."""
