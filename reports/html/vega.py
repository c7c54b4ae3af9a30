"""Vega's JavaScript for the plot of report.html, kept in the user's cache folder because it takes a second to make."""

import hashlib
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

from reports.files import write_atomically


@cache
def with_vega(script: str) -> str:
    """Return a script together with Vega, Vega-Lite and vega-embed, as one module of JavaScript.

    The module is read from the user's cache folder, if it is there for this script and version of vl-convert.
    Otherwise vl-convert makes it. A folder that cannot be read or written costs only the time to make it again.

    Args:
        script: JavaScript that calls ``vegaEmbed``.

    Returns:
        The text of the module, about 0.9 MB.
    """
    digest = hashlib.sha256(f"{version('vl-convert-python')}\n{script}".encode()).hexdigest()
    kept = Path(platformdirs.user_cache_dir("seriesquant", appauthor=False)) / "vega" / f"{digest}.js"
    with suppress(OSError, UnicodeError):
        return kept.read_text(encoding="utf-8")
    import vl_convert

    module = vl_convert.javascript_bundle(script)
    with suppress(OSError):
        write_atomically(kept, module)
    return module
