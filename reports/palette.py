"""The colours and marks that every plot shares, told apart also without colour."""

INK = "#222222"
MUTED = "#8a8a8a"
GRID = "#e4e4e4"

DENSE_COLOR = "#6b6b6b"
BASIS_COLORS = {"cosine": "#0072b2", "chebyshev": "#d55e00"}
BASIS_MARKERS = {"cosine": "o", "chebyshev": "s"}
OTHER_COLOR, OTHER_MARKER = "#009e73", "D"
BITS_COLORS = ("#56b4e9", "#cc79a7", "#e69f00", "#117733", "#882255")


def basis_color(basis: str) -> str:
    """The colour of a basis in every plot."""
    return BASIS_COLORS.get(basis, OTHER_COLOR)


def basis_marker(basis: str) -> str:
    """The mark of a basis in every plot."""
    return BASIS_MARKERS.get(basis, OTHER_MARKER)
