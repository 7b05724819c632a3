"""Receipts: an explanation or a report that was saved as JSON is derived again, from the receipt and its target alone.

No module of the explaining part is imported here. What a receipt claims is found again by other means: the target is
loaded anew and traced, every oracle is asked again, equations are recomputed from their own digits, and sums, names,
paths and findings are looked for in the fresh trace.
"""
