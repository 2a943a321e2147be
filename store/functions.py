"""The SQL functions of histograms and of counts of distinct things: the same rules as `catchment.histogram` and
`catchment.algebra.distinct`, which are the reference.

Functions are global in the engine, not per database, and expressions without variables:
``arrayMap(x -> …, [value])[1]`` names an intermediate value, so that it is computed once and not for every bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

from catchment.algebra.distinct import ALPHA, REGISTERS


@dataclass(frozen=True)
class Function:
    """A SQL function: ``signature`` names its arguments, ``body`` is an expression of them."""

    name: str
    arguments: tuple[str, ...]
    body: str
    returns: str
    comment: str

    @property
    def sql(self) -> str:
        """CREATE OR REPLACE FUNCTION."""
        return f"CREATE OR REPLACE FUNCTION {self.name} AS ({', '.join(self.arguments)}) -> {self.body}"


FUNCTIONS = (
    Function(
        "catchmentRankBound",
        ("rank",),
        "toFloat64(reinterpretAsFloat32(toInt32(if(rank >= 0, rank, bitXor(rank, 2147483647)))))",
        "Float64",
        "the bound with a place in the order of float32 (used by the others)",
    ),
    Function(
        "catchmentBoundRank",
        ("bound",),
        "arrayMap(bits -> if(bits >= 0, bits, bitXor(bits, 2147483647)), "
        "[toInt64(reinterpretAsInt32(toFloat32(bound)))])[1]",
        "Int64",
        "the place of a bound in the order of float32 (used by the others)",
    ),
    Function(
        "catchmentBucketLower",
        ("key",),
        "catchmentRankBound(bitShiftRight(toInt64(key), 32))",
        "Float64",
        "lower bound, exclusive, of the interval that a key of `histogram` stands for",
    ),
    Function(
        "catchmentBucketUpper",
        ("key",),
        "catchmentRankBound(toInt64(bitAnd(toInt64(key), 4294967295)) - 2147483648)",
        "Float64",
        "upper bound, inclusive, of the interval that a key of `histogram` stands for",
    ),
    Function(
        "catchmentQuantileBounds",
        ("q", "histogram"),
        "if(arraySum(mapValues(histogram)) = 0, (nan, nan), arrayMap((keys, counts, rank) -> ("
        "catchmentBucketLower(arraySort(keys)[arrayFirstIndex(reached -> reached >= rank, "
        "arrayCumSum(arraySort((count, key) -> key, counts, keys)))]), "
        "catchmentBucketUpper(arraySort(key -> bitAnd(key, 4294967295), keys)["
        "arrayFirstIndex(reached -> reached >= rank, "
        "arrayCumSum(arraySort((count, key) -> bitAnd(key, 4294967295), counts, keys)))])), "
        "[mapKeys(histogram)], [mapValues(histogram)], "
        "[toUInt64(least(toFloat64(arraySum(mapValues(histogram))), "
        "greatest(1., ceil(q * arraySum(mapValues(histogram))))))])[1])",
        "Tuple(Float64, Float64)",
        "(low, high): the bracket that holds the q-quantile by nearest rank, 0 <= q <= 1; NaN when empty",
    ),
    Function(
        "catchmentQuantile",
        ("q", "histogram"),
        "arrayMap(bracket -> multiIf("
        "isInfinite(bracket.1) AND isInfinite(bracket.2), nan, isInfinite(bracket.1), bracket.2, "
        "isInfinite(bracket.2), bracket.1, "
        "bracket.1 * bracket.2 > 0 "
        "AND greatest(abs(bracket.1), abs(bracket.2)) <= 2 * least(abs(bracket.1), abs(bracket.2)), "
        "2 * bracket.1 * bracket.2 / (bracket.1 + bracket.2), "
        "(bracket.1 + bracket.2) / 2), [catchmentQuantileBounds(q, histogram)])[1]",
        "Float64",
        "estimate of the q-quantile inside its bracket; at scale 5 or finer its relative error is at most 1.1 %",
    ),
    Function(
        "catchmentQuantileWithin",
        ("q", "histogram", "smallest", "largest"),
        "arrayMap(estimate -> multiIf(estimate > ifNull(largest, inf), ifNull(largest, inf), "
        "estimate < ifNull(smallest, -inf), ifNull(smallest, -inf), estimate), [catchmentQuantile(q, histogram)])[1]",
        "Float64",
        "catchmentQuantile clamped to the known smallest and largest value (columns min and max; NULL: unknown)",
    ),
    Function(
        "catchmentCountBelow",
        ("x", "histogram"),
        "arrayMap((value, below, above) -> arraySum((lower, upper, count) -> toFloat64(count) * multiIf("
        "upper <= above, 1., "
        "(lower < below OR (lower = below AND below < 0)) AND isFinite(lower) AND isFinite(upper), "
        "greatest(0., least(1., (value - lower) / (upper - lower))), 0.), "
        "arrayMap(key -> catchmentBucketLower(key), mapKeys(histogram)), "
        "arrayMap(key -> catchmentBucketUpper(key), mapKeys(histogram)), mapValues(histogram)), "
        "[toFloat64(x)], "
        "[catchmentRankBound(catchmentBoundRank(x) - toInt64(toFloat64(toFloat32(x)) > toFloat64(x)))], "
        "[catchmentRankBound(catchmentBoundRank(x) + toInt64(toFloat64(toFloat32(x)) < toFloat64(x)))])[1]",
        "Float64",
        "how many values are <= x: exact at a bucket's own bound, inside a bucket its linear share",
    ),
    Function(
        "catchmentDistinct",
        ("registers",),
        "arrayMap((empty, raw) -> toUInt64(round(if("
        f"raw <= {2.5 * REGISTERS} AND empty > 0, {REGISTERS} * log({REGISTERS} / empty), raw))), "
        f"[{REGISTERS} - length(registers)], "
        f"[{ALPHA * REGISTERS**2!r} / ({REGISTERS} - length(registers) + "
        "arraySum(rank -> pow(2, -toInt64(rank)), mapValues(registers)))])[1]",
        "UInt64",
        "about how many distinct things `registers` have seen, within 3.3 % mostly; merge them by maxMap before",
    ),
)
