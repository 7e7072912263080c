"""Silence of the libraries around a model: their progress bars, their advice, and what they repeat of a text.

Guarantee: while a prompt is encoded, no part of it is logged, which diffusers would do with what it cuts off.
May import diffusers and transformers. Their own errors still come through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of diffusers and transformers inside the block."""
    libraries = [diffusers_logging, transformers_logging]
    before = [(library._tqdm_active, library.get_verbosity()) for library in libraries]
    try:
        for library in libraries:
            library._tqdm_active = False
            library.set_verbosity_error()
        yield
    finally:
        for library, (active, verbosity) in zip(libraries, before):
            library._tqdm_active = active
            library.set_verbosity(verbosity)
