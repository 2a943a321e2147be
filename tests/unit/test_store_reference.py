from __future__ import annotations

from pathlib import Path

from catchment.columns import LANES
from store.ddl import RETENTION_CLASSES, create_all, table_columns, tables
from store.engine.statement import is_single
from store.reference import render
from store.views import views


def test_the_reference_is_the_generated_one() -> None:
    """docs/sql.md says what the code creates."""
    page = Path(__file__).parents[2] / "docs" / "sql.md"
    assert page.read_text("utf-8") == render(), "run: python -m store.reference > docs/sql.md"


def test_every_lane_column_reaches_its_table() -> None:
    """No column of a lane is forgotten: each is a column, or a part of its group's tuple."""
    for lane in LANES.values():
        names = {column.name for column in table_columns(lane)}
        for column in lane.columns:
            expected = "window_start" if column.name == "window_start_ns" else column.group or column.name
            assert expected in names, f"{lane.name}.{column.name}"


def test_metrics_have_three_classes_and_each_statement_is_single() -> None:
    """Cluster and region metrics have finest, hour and day; what migrations run is one statement each."""
    names = {table.name for table in tables()}
    assert {f"metrics_{place}{suffix}" for place in ("cluster", "region") for suffix in ("", "_1h", "_1d")} <= names
    assert RETENTION_CLASSES == ("metrics_1m", "metrics_1h", "metrics_1d", "totals", "drops", "health", "cardinality")
    statements = [*create_all(deduplication_window=5), *(view.sql for view in views())]
    assert all(is_single(statement) for statement in statements)
