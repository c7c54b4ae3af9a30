"""Compress a network: parse the command line, call the pipeline, return the exit code."""

import sys

from seriesquant import program

if __name__ == "__main__":
    sys.exit(program())
