"""The store of stage results: what was computed once is read back, whichever run asks for it."""
