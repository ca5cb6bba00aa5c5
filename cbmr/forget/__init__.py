"""A track or a listener out of everything that cbmr wrote: what holds one, and what is left.

`traces` looks through files for what a name stands for; `removal` takes rows out of tables, arrays
and lists. Rows leave exactly: all others stay as they are, to the bit. What training learned from a
row is in weights, and in the numbers of other rows; only training again removes that.
"""

from cbmr.forget.removal import (
    rows_of_tables,
    users_of,
    without_in_arrays,
    without_in_list,
    without_in_table,
)
from cbmr.forget.traces import Looked, Wanted, look_through, wanted_of

__all__ = [
    "Looked", "Wanted", "look_through", "rows_of_tables", "users_of", "wanted_of",
    "without_in_arrays", "without_in_list", "without_in_table",
]  # fmt: skip
