"""The release of gradexplain."""

__version__ = "0.1.0"
