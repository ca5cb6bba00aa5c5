"""What the network learned, as Dieleman (2014) looks at it: the first layer's filters, and maps of
the tracks."""

from cbmr.analysis.filters import (
    draw_close_up,
    draw_filters,
    filter_strip,
    first_filters,
    strongest,
)
from cbmr.analysis.groups import Groups, groups_of
from cbmr.analysis.map_picture import draw_maps
from cbmr.analysis.maps import place, usage_patterns
from cbmr.analysis.pages import write_map

__all__ = [
    "Groups", "draw_close_up", "draw_filters", "draw_maps", "filter_strip", "first_filters",
    "groups_of", "place", "strongest", "usage_patterns", "write_map",
]  # fmt: skip
