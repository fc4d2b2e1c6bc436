"""By which names this machine is called: the installation's own, and in a rehearsal those of the machine itself."""

from __future__ import annotations

from urllib.parse import urlsplit

from broadcaster.settings import Settings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def name_of(host: str) -> str:
    """The name in a `Host` header, without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a `Host` header names the machine itself."""
    return name_of(host) in LOOPBACK


class Hosts:
    """Whether a request is for this installation. A live one answers to its own names only: whoever makes a browser
    believe that another name is this machine (DNS rebinding), or writes a name of their own into a request, gets nothing.
    What asks from the machine itself whether it is well need not know the name. A rehearsal answers to every name; its
    forms are taken from the loopback and its own address alone."""

    OF_THE_MACHINE = frozenset({"/healthz", "/readyz", "/metrics"})

    def __init__(self, settings: Settings) -> None:
        self._is_live = not settings.is_rehearsal
        self._names = {urlsplit(settings.ward.base_url).hostname, *settings.ward.hosts}

    def are_ours(self, host: str, path: str) -> bool:
        if not self._is_live or name_of(host) in self._names:
            return True
        return path in self.OF_THE_MACHINE and is_loopback(host)
