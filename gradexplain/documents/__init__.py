"""What a page is made of, and how a page becomes text, a terminal page, Markdown or HTML.

The only place that escapes text. Nothing is known here of gradients.
"""
