"""How many rows the table of bad input has, and that each is another."""

from __future__ import annotations

import test_bad_calls
import test_bad_certificates
import test_bad_commands
import test_bad_data
import test_bad_ledgers
import test_bad_recipes
import test_bad_sources

AT_LEAST = {
    test_bad_recipes: 45,
    test_bad_data: 25,
    test_bad_ledgers: 15,
    test_bad_certificates: 15,
    test_bad_commands: 15,
    test_bad_calls: 10,
    test_bad_sources: 20,
}


def test_the_table_has_more_than_a_hundred_rows() -> None:
    counts = {module: len(module.ROWS) for module in AT_LEAST}
    assert all(counts[module] >= least for module, least in AT_LEAST.items())
    assert sum(counts.values()) >= 100


def test_no_row_is_there_twice() -> None:
    for module in AT_LEAST:
        names = [row.name for row in module.ROWS]
        assert len(set(names)) == len(names), module.__name__
