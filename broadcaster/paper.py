"""Paper: a PDF from a layout and its values. Typst, and the only user of it.

Values go in as JSON and stay text: nothing in them is read as markup, and a layout reads no file and no network. The faces
are those of the machine; Japanese needs one of the families that `FACES` names.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

_TURN = threading.BoundedSemaphore(1)
"""One at a time: setting a page takes all of a processor for a tenth of a second."""


class NotPrinted(RuntimeError):
    """It could not be set. The reason is for the log."""


def printed(layout: Path, values: Mapping[str, Any], *, at: datetime) -> bytes:
    """The PDF. `at` is the time that stands in the file. Raises NotPrinted."""
    import typst  # 30 MB that a web process has no use for until somebody wants paper

    told = {"values": json.dumps(values, ensure_ascii=False)}
    try:
        with _TURN:
            made = typst.compile(layout.read_bytes(), sys_inputs=told, format="pdf", timestamp=int(at.timestamp()))
    except (typst.TypstError, OSError) as error:
        raise NotPrinted(str(error)) from error
    if not isinstance(made, bytes):
        raise NotPrinted("no pages came out")
    return made
