"""The methods that `benchmarks/peers.py` compares: each writes a file and reads it back as a network."""
