"""The root of every error that a user of the project can cause."""


class CompressionError(ValueError):
    """An input cannot be used. The message names the problem, the value received and the allowed values."""


class NumericalError(CompressionError):
    """A numerical failure: values that are not finite, a matrix that cannot be factored, training that diverged."""
