"""Reports: the typed content of report.json, and its page, markdown, tables and plots beside the poster's figures.

The package reads results only and imports none of the other packages.
"""

from reports.markdown import render
from reports.model import Report
from reports.plots import write_plots
from reports.poster import PosterFigures, poster_row
from reports.schema import report_schema
from reports.summary import summarise
from reports.tables import result_table
from reports.write import write_report

__all__ = [
    "PosterFigures",
    "Report",
    "poster_row",
    "render",
    "report_schema",
    "result_table",
    "summarise",
    "write_plots",
    "write_report",
]
