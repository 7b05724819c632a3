"""Receipts: an explanation or a report that was saved as JSON, whose question is asked again of the same verb.

The two records must be the same. What is on its own here is how equations are read: from their digits alone, before
anything is run.
"""
