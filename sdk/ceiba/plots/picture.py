"""The figure that notebooks show without pyplot. Imports matplotlib, so it is itself imported late."""

from io import BytesIO

from matplotlib.figure import Figure


class Picture(Figure):
    """A matplotlib figure that shows itself as the last value of a notebook's cell."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        return buffer.getvalue()
