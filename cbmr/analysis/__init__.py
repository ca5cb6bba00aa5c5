"""What the network learned, as Dieleman (2014) looks at it: the first layer's filters."""

from cbmr.analysis.filters import (
    draw_close_up,
    draw_filters,
    filter_strip,
    first_filters,
    strongest,
)

__all__ = ["draw_close_up", "draw_filters", "filter_strip", "first_filters", "strongest"]
