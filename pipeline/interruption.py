"""Being asked to end."""

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""
