"""Read a checkpoint as plain data, find the weights in it, and match their names with a network's."""
