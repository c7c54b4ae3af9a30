"""The process and the machine: devices, ranks, signals, random streams, progress."""
