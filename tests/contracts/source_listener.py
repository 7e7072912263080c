"""Opens sources in a process of its own and says whether a file was opened for writing meanwhile.

Argument: a JSON list of [folder, path, label column, unit column, caption column]. Prints one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from dp_diffusers.data.private_images import PrivateImages
from source_support import serve

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "shutil.copyfile", "tempfile.mkstemp"}


def main(jobs: list[list[str]]) -> None:
    written: list[str] = []
    listening = True

    def hear(event: str, given: tuple[Any, ...]) -> None:
        if not listening:
            return
        flags = given[2] if event == "open" else 0
        if event in CHANGES or (isinstance(flags, int) and flags & WRITES):
            written.append(f"{event} {given[0]}")

    sys.addaudithook(hear)
    for folder, path, label, unit, caption in jobs:
        serve(Path(folder), setattr)
        images = PrivateImages.open(
            path, label=label, unit=unit, caption_column=caption, classes=["well", "ill"]
        )
        assert len(images.images) == 4
    found = list(written)
    Path(os.devnull).open("w").close()  # an ear that hears nothing would find nothing
    heard = len(written) == len(found) + 1
    listening = False
    print(json.dumps({"opened": len(jobs), "written": found, "heard": heard}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
