"""The colours of every format: fills and borders of nodes, and inks, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Mapping

from gradexplain.graphs.graph import Node

# fmt: off
LIGHT: Mapping[str, tuple[str, str]] = {
    "operation": ("#f6f8fa", "#afb8c1"),
    "input":     ("#dafbe1", "#2da44e"),
    "parameter": ("#ddf4ff", "#218bff"),
    "function":  ("#fbefff", "#a475f9"),
    "fold":      ("#fff8c5", "#bf8700"),
    "gradient":  ("#fff1e5", "#e16f24"),
    "bad":       ("#ffebe9", "#cf222e"),
}
DARK: Mapping[str, tuple[str, str]] = {
    "operation": ("#161b22", "#484f58"),
    "input":     ("#12361f", "#3fb950"),
    "parameter": ("#0c2d6b", "#58a6ff"),
    "function":  ("#3c1e70", "#bc8cff"),
    "fold":      ("#3b2300", "#d29922"),
    "gradient":  ("#3d1300", "#f0883e"),
    "bad":       ("#490202", "#ff7b72"),
}
INKS: Mapping[str, tuple[str, str]] = {  # on light, on dark
    "page": ("#fff",    "#0d1117"),
    "ink":  ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9198a1"),
    "line": ("#8b949e", "#6e7681"),
    "back": ("#bc4c00", "#f0883e"),
}
# fmt: on

# On paper and in other programs' files there is one ground; what is drawn without a fill has the page's.
PAPER: Mapping[str, tuple[str, str]] = {
    **LIGHT,
    "element": LIGHT["operation"],
    "outside": ("#ffffff", INKS["line"][0]),
}


def shade(node: Node) -> str:
    """Returns what a node is coloured as: its kind, or `bad` where its gradient differs."""
    return "bad" if node.facts is not None and node.facts.verdict == "differs" else node.kind
