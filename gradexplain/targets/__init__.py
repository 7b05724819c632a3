"""What is asked, as it is typed: expressions, values, functions in files, and places in the source of users.

Nothing of it is run here but what loads it, and an expression is never executed as Python.
"""
