"""What the network learned, as Dieleman (2014) looks at it: the first layer's filters, the tracks
to which its units react most, and maps of all tracks."""

from cbmr.analysis.cards import Card, UnitList, make_cards, most_selective
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
from cbmr.analysis.pages import write_map, write_units
from cbmr.analysis.units import (
    OVER_TIME,
    WHOLE,
    Selectivity,
    Strongest,
    check_units,
    moment_s,
    selectivity,
    sound_at_peaks,
    strongest_tracks,
)

__all__ = [
    "OVER_TIME", "WHOLE", "Card", "Groups", "Selectivity", "Strongest", "UnitList", "check_units",
    "draw_close_up", "draw_filters", "draw_maps", "filter_strip", "first_filters", "groups_of",
    "make_cards", "moment_s", "most_selective", "place", "selectivity", "sound_at_peaks",
    "strongest", "strongest_tracks", "usage_patterns", "write_map", "write_units",
]  # fmt: skip
