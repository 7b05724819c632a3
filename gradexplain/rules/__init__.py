"""What is known of each operator, in one place: its formula, its derivatives, and where it is not differentiable.

A rule is one entry in one of the modules here. It is looked up by the operator's name (`aten.mm`), shown, run as an
oracle and proved by `tests/test_rules.py` without another line. The formulas are derived by hand from the definition of
the operator, never from torch's own backward, and nothing here knows a trace: their independence is the point.
"""
