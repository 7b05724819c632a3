"""Terms, digits and equations: how a number's arithmetic is written down and read back.

Nothing is known here of torch's graph or of tensors larger than a number.
"""
