"""Text columns: dictionary-encoded keys, taken from each group's first row.

The dictionary of a result lists exactly the values that occur, in the order of their first row: equal rows give equal
bytes, however the inputs' dictionaries were cut.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa

from catchment.algebra.grouping import Int64s, view


def take_text(column: pa.DictionaryArray, rows: Int64s) -> pa.DictionaryArray:
    """The values of ``rows``, with a dictionary of only those."""
    codes = view(column.indices, np.int32)[rows]
    if not len(codes):
        return pa.array([], type=column.type)
    # On repeated indexes the last assignment stands, so going backwards leaves the first row of each code.
    first = np.full(len(column.dictionary), len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    used = np.flatnonzero(first < len(codes))
    used = used[np.argsort(first[used])]
    renumbered = np.empty(len(first), np.int32)
    renumbered[used] = np.arange(len(used), dtype=np.int32)
    dictionary = column.dictionary.take(pa.array(used))
    return pa.DictionaryArray.from_arrays(pa.array(renumbered[codes]), dictionary, safe=False)


def compact(rows: pa.Table) -> pa.Table:
    """The same rows with dictionaries of only what occurs: a slice of a table still carries all of its text."""
    every = np.arange(rows.num_rows, dtype=np.int64)
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            column = rows.column(index).unify_dictionaries().combine_chunks()
            rows = rows.set_column(index, field, take_text(cast(pa.DictionaryArray, column), every))
    return rows
