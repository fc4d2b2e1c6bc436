"""What people, screens and programs ask for: public pages and boards, the API, leaving the list, the rehearsal town."""

from broadcaster.web.site import create

__all__ = ["create"]
