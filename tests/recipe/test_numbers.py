"""Numbers and keys as they are written, and written so that they are read again."""

from __future__ import annotations

import pytest

from dp_diffusers.recipe.yaml_lines import dump, dump_in_line, parse, parse_value


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("1_000", 1000), ("-7", -7), ("1:30", "1:30"), ("0o7", "0o7")]
)
def test_whole_numbers_are_decimal(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("key", ["on", "no", "Yes"])
def test_a_key_is_called_what_is_written(key: str) -> None:
    located = parse(f"a: 1\n{key}: 2\n")
    assert located.value == {"a": 1, key: 2}
    assert located.lines[(key,)] == 2


@pytest.mark.parametrize(
    "text", ["08", "09", "010", "0x10", "1_000", "1:30", "1e-5", "on", "no", "null", "~", "-"]
)
def test_text_that_looks_like_something_else_is_written_as_text(text: str) -> None:
    assert parse(dump({"classes": [text, 8]})).value == {"classes": [text, 8]}
    assert parse_value(dump_in_line([text, 8])) == [text, 8]
