"""Tables of encoded prompts: rows, files, and what a kill leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dp_diffusers.diffusion import prompts
from dp_diffusers.diffusion.prompts import encoded, kept
from dp_diffusers.loop import row_store

TEXTS = [f"text {number}" for number in range(5)]


class Encoder:
    """Encodes a text as its length; counts, and can die."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.calls: list[str | None] = []
        self.dies_at = dies_at

    def __call__(self, text: str | None) -> dict[str, torch.Tensor]:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(text)
        number = 0.0 if text is None else float(text[-1]) + 1
        return {"text": torch.full((2, 3), number), "mask": torch.tensor([True, text is not None])}


def test_rows_are_those_of_their_prompts_and_the_last_is_that_of_none() -> None:
    rows = encoded(TEXTS, Encoder()).rows(torch.tensor([4, 0, 5]))
    assert rows["text"][:, 0, 0].tolist() == [5.0, 1.0, 0.0]
    assert rows["mask"].tolist() == [[True, True], [True, True], [True, False]]
    assert rows["text"].dtype == torch.float32


def test_files_hold_what_memory_would(tmp_path: Path) -> None:
    index = torch.arange(6)
    table = kept(TEXTS, Encoder(), tmp_path / "safe", "model")
    assert sorted(table.store.names) == ["mask", "text"]
    for name, value in encoded(TEXTS, Encoder()).rows(index).items():
        assert torch.equal(table.rows(index)[name], value)


def test_a_kill_in_the_middle_loses_a_few_rows_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "BLOCK", 2)
    monkeypatch.setattr(row_store, "SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        kept(TEXTS, Encoder(dies_at=3), tmp_path, "model")
    again = Encoder()
    table = kept(TEXTS, again, tmp_path, "model")
    assert again.calls == ["text 2", "text 3", "text 4", None]
    assert table.rows(torch.arange(6))["text"][:, 0, 0].tolist() == [1, 2, 3, 4, 5, 0]
    whole = Encoder()
    kept(TEXTS, whole, tmp_path, "model")
    assert whole.calls == []


@pytest.mark.parametrize(
    ("texts", "model"), [(TEXTS[::-1], "model"), (TEXTS, "another"), (TEXTS[:4], "model")]
)
def test_another_table_is_never_taken_for_this_one(tmp_path: Path, texts: list[str], model: str) -> None:
    kept(TEXTS, Encoder(), tmp_path, "model")
    again = Encoder()
    table = kept(texts, again, tmp_path, model)
    assert again.calls == [*texts, None]
    expected = encoded(texts, Encoder()).rows(torch.arange(len(texts) + 1))
    assert torch.equal(table.rows(torch.arange(len(texts) + 1))["text"], expected["text"])


def test_a_damaged_note_begins_again(tmp_path: Path) -> None:
    kept(TEXTS, Encoder(), tmp_path, "model")
    (tmp_path / "index.json").write_text("{")
    again = Encoder()
    kept(TEXTS, again, tmp_path, "model")
    assert len(again.calls) == 6


@pytest.mark.parametrize("left", [0, 60, None])
def test_a_damaged_column_begins_again(tmp_path: Path, left: int | None) -> None:
    kept(TEXTS, Encoder(), tmp_path, "model")
    column = tmp_path / "text-000000.bin"
    if left is None:
        column.unlink()
    else:
        column.write_bytes(column.read_bytes()[:left])
    again = Encoder()
    table = kept(TEXTS, again, tmp_path, "model")
    assert len(again.calls) == 6
    assert table.rows(torch.arange(6))["text"][:, 0, 0].tolist() == [1, 2, 3, 4, 5, 0]


def test_a_column_of_an_earlier_table_is_not_taken_along(tmp_path: Path) -> None:
    (tmp_path / "pooled-000000.bin").write_bytes(bytes(24))
    assert set(kept(TEXTS, Encoder(), tmp_path, "model").store.names) == {"text", "mask"}
    assert set(kept(TEXTS, Encoder(), tmp_path, "model").store.names) == {"text", "mask"}
    assert not list(tmp_path.glob("pooled*"))
