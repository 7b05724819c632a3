"""The command line: reads the arguments, calls the verbs, prints, exits.

Nothing is known here but how a thing is asked for and where its answer goes.
"""
