"""The store of stage results: a later run with the same inputs reads them instead of computing them."""
