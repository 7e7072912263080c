"""Families that take text: prompts are encoded once, and a label is the number of a prompt.

Guarantees: text encoders never run while a step is computed; the encoding of a prompt is a function of that
prompt alone, whatever other prompts there are; nothing of a prompt is logged. May import torch and diffusers,
never the engine. The text is encoded by the pipeline's own `encode_prompt`, so that it means what it means to
stock diffusers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from dp_diffusers.diffusion.autoencoded import AutoencodedFamily
from dp_diffusers.diffusion.prompts import Encoding, PromptTable, encoded, kept, placed
from dp_diffusers.diffusion.quiet import quiet


class EncodedPrompts(Protocol):
    """Encodings by number: of each prompt, and of no prompt after them."""

    def rows(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[R, ...]` of each column, on the device of `labels` `[R]`."""


class TextFamily(AutoencodedFamily):
    """A network that takes encoded prompts; a subclass encodes one prompt, and predicts from its columns."""

    takes_text: ClassVar[bool] = True
    prompts: tuple[str, ...] = ()
    _table: EncodedPrompts | None = None

    @property
    def classes(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @property
    def null_label(self) -> int:
        """The row of the empty prompt, after all others."""
        return len(self.prompts)

    def set_prompts(self, prompts: Sequence[str], *, cache: Path | None = None) -> None:
        """Encodes the prompts, once; label i means `prompts[i]`, and `null_label` the empty prompt.

        cache: folder of a run's safe in which the encodings lie, for many or private ones.
        """
        self.prompts = tuple(prompts)
        self._table = self._encoded(cache)

    def alike(self) -> tuple[int, int] | None:
        """The first two prompts that are one condition, as where all that tells them apart is cut off.

        None where all differ, and for prompts that lie in files.
        """
        met: dict[bytes, int] = {}
        if isinstance(self._table, PromptTable):
            for place in range(len(self.prompts)):
                row = b"".join(column[place].tobytes() for column in self._table.columns.values())
                if met.setdefault(row, place) != place:
                    return met[row], place
        return None

    def use_encoded(self, prompts: Sequence[str], table: EncodedPrompts) -> None:
        """Takes prompts that are encoded already; the last row of `table` is that of the empty prompt."""
        self.prompts, self._table = tuple(prompts), table

    def place_prompts(self) -> None:
        """Lays the encoded prompts where the network lies, unless they are many: no step waits for them."""
        if self._table is None:
            self.set_prompts(self.prompts)
        if isinstance(self._table, PromptTable):
            self._table = placed(self._table, next(self.network.parameters()).device)

    def conditions(self, labels: torch.Tensor | None, noisy: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network takes of each row's prompt, `[R, ...]`; of the empty prompt without labels."""
        if self._table is None:
            self.set_prompts(self.prompts)
        assert self._table is not None
        if labels is None:
            labels = torch.full((len(noisy),), self.null_label, device=noisy.device)
        found = self._table.rows(labels)
        return {k: self.like_network(v) if v.is_floating_point() else v for k, v in found.items()}

    @abstractmethod
    def encode_prompt(self, pipeline: Any, prompt: str, device: torch.device) -> Mapping[str, torch.Tensor]:
        """What the network takes of one prompt, by name, with a batch of one in front."""

    def encode_null(self, pipeline: Any, device: torch.device) -> Mapping[str, torch.Tensor]:
        """What it takes of no prompt: that of the empty one, unless the pipeline does it otherwise."""
        return self.encode_prompt(pipeline, "", device)

    def _encoded(self, cache: Path | None) -> EncodedPrompts:
        encoders = [part for name, part in self.base.parts.items() if name.startswith("text_encoder")]
        device = next(self.network.parameters()).device
        for part in encoders:
            part.eval().to(device)
        try:
            with quiet():  # a pipeline would log what it cuts off a long prompt, and that may be private
                encode = self._encoder(device)
                if cache is None:
                    return encoded(self.prompts, encode)
                return kept(self.prompts, encode, cache, str(self.base.sha256))
        finally:
            for part in encoders:  # they are large, and their work is done
                part.to("cpu")

    def _encoder(self, device: torch.device) -> Callable[[str | None], Encoding]:
        pipeline = self.base.whole()

        @torch.no_grad()
        def encode(prompt: str | None) -> Encoding:
            if prompt is None:
                found = self.encode_null(pipeline, device)
            else:
                found = self.encode_prompt(pipeline, prompt, device)
            return {name: value[0] for name, value in found.items()}

        return encode
