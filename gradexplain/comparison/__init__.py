"""Comparing: two ways to one gradient, held against each other and against one truth in float64."""
