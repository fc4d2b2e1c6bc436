"""The media, one file each. A new medium is one file, its templates, one test file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from broadcaster.channel import Channel
from channels.dial import Dial
from channels.email import Email
from channels.page import PublicPage
from channels.rss import Rss
from channels.signage import Signage
from channels.x import X

CHANNELS: Mapping[str, type[Channel]] = {
    "dial": Dial,
    "signage": Signage,
    "page": PublicPage,
    "email": Email,
    "x": X,
    "rss": Rss,
}
