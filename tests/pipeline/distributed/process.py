"""The program of one of several processes: it writes its results of the scenario into a folder."""

import sys
from pathlib import Path

from pipeline.runtime.imports import import_libraries

SCENARIO = "tests.pipeline.distributed.scenario"

import_libraries(SCENARIO)
sys.modules[SCENARIO].write_results(Path(sys.argv[1]))
