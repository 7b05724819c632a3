"""Explanations and reports, told: as documents in words, and as plain data for JSON.

Nothing is computed here that is not on the page already, but the equations that are read back from it.
"""
