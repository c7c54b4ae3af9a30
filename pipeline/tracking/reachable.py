"""Whether a server is there, found out before anything heavy is loaded."""

import http.client
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit, urlunsplit

SECONDS = 30.0


def check_reachable(url: str, seconds: float = SECONDS) -> None:
    """Ask a server for its health; any answer will do, a refusal too.

    Args:
        url: The server, ``http://...`` or ``https://...``.
        seconds: How long to wait for a word.

    Raises:
        OSError: The address leads nowhere, or nobody answers.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]  # urllib takes no user and password there
    health = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        urllib.request.urlopen(health, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # somebody is there; whom to trust is MLflow's to know
        raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP ({error!r})") from None
