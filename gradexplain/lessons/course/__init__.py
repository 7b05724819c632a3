"""The lessons, one a module."""
