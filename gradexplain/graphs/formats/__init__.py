"""The formats of a picture, a module each: a function of the picture and its words.

No format knows another but for what they share of SVG.
"""
