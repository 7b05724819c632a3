"""Where every number of a gradient comes from: a trace joined with rules, verdicts and findings, as data.

Nothing is known here of words and pages.
"""
