"""The root of every error that a user of the project can cause."""


class CompressionError(ValueError):
    """Something the caller gave cannot be used; the message says what was wrong, what was got and what is allowed."""


class NumericalError(CompressionError):
    """A numerical failure: values that are not finite, a matrix that cannot be factored, training that diverged."""
