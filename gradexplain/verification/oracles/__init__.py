"""Independent ways to get the same gradient: a module each, one entry in `registry`.

An oracle knows the question that it is asked, and no other oracle.
"""
