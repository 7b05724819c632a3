"""The page of an explanation that answers when it is touched: its graph, its steps and every number on them.

What is said in words is told elsewhere; here stand the moments of both passes, and what the page's script needs of
them.
"""
