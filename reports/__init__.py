"""Reports: report.json to markdown, tables and plots, with the poster's figures for comparison.

It reads results only: it knows nothing of how they were made.
"""

from reports.markdown import render
from reports.plots import write_plots
from reports.poster import PosterFigures, poster_row
from reports.summary import summarise
from reports.tables import result_table
from reports.write import write_report

__all__ = ["PosterFigures", "poster_row", "render", "result_table", "summarise", "write_plots", "write_report"]
