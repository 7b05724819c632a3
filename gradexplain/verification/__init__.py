"""Whether a gradient is right: oracles are asked, their answers make a verdict, and the wrong operation is found.

Nothing is known here of how it is told.
"""
