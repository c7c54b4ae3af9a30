"""The poster's figures, a run's tables beside them, and the poster's whole tables with the figures of many runs."""

from reports.poster.figures import SOURCE, PosterFigures, poster_row
from reports.poster.tables import poster_quantization_table, poster_table

__all__ = ["SOURCE", "PosterFigures", "poster_quantization_table", "poster_row", "poster_table"]
