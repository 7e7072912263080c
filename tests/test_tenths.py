"""Lines of progress by tenths."""

from __future__ import annotations

from dp_diffusers.tenths import by_tenths


def test_each_tenth_is_said_once_whatever_the_number_of_images() -> None:
    expected = [f"encoding: {percent} %" for percent in range(10, 101, 10)]
    for count in (3, 10, 1001):
        said: list[str] = []
        done = by_tenths(said.append, "encoding")
        for seen in range(1, count + 3):  # a last block may be filled up
            done(seen / count)
        assert said == expected
