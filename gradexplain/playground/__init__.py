"""The live page: a server on the loopback interface, whose page has controls and runs real torch at every edit.

Each question is computed in a process of its own, within limits; what the page shows is the explanation's own page.
"""
