"""One message, every medium: a ward's public warning and information service.

Read `pipeline.py` first: it is the way of a message from top to bottom.
"""

__version__ = "0.1.0"
