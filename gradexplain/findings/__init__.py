"""What is unusual in a trace: a code, a place and the evidence.

A finding has no words; they are found by its code.
"""
