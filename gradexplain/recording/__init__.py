"""One run of a computation, forward and backward, watched and joined into a `Trace`: plain data, detached.

Nothing is judged here, and nothing is known of rules but which operator a node stands for.
"""
