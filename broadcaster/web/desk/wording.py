"""What the pages call things: where a message stands, how a delivery ended, what somebody did."""

from __future__ import annotations

import json

from broadcaster.store.audit import Entry
from broadcaster.store.messages import Kept
from broadcaster.web.desk.visit import Visit


def state_word(visit: Visit, kept: Kept) -> str:
    return visit.w(f"states_message.{kept.standing(visit.now)}")


def ending_word(visit: Visit, ending: str, tries: int = 0) -> str:
    return visit.w(f"states_delivery.{ending}", n=tries)


def act_name(visit: Visit, act: str) -> str:
    """An act in words; one that has none stands as it was written down."""
    return visit.w(f"records.acts.{_key(act)}") if _is_known(visit, act) else act


def act_sentence(visit: Visit, entry: Entry) -> str:
    """One entry of the log as a sentence, with who did it."""
    who, told = visit.called(entry.actor), json.loads(entry.detail)
    if entry.act == "delivery.decided":
        medium = visit.w(f"home.media_of.{told.get('channel', '')}")
        return visit.w(f"sent.acts.decided_{told['how']}", who=who, medium=medium)
    if entry.act == "delivery.resent":
        return visit.w("sent.acts.delivery_resent", who=who, n=told.get("number", ""))
    key = "by" if _is_known(visit, entry.act) else "other"
    return visit.w(f"sent.acts.{key}", who=who, act=act_name(visit, entry.act))


def _key(act: str) -> str:
    return act.replace(".", "_", 1)


def _is_known(visit: Visit, act: str) -> bool:
    return _key(act) in visit.app.settings.words.pages["records"]["acts"]
