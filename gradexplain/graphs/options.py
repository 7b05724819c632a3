"""What can be asked of a picture, by name; the command line lists it before anything else is loaded."""

VIEWS = ("backward", "forward", "both", "elements")
# What can be asked for on nodes and edges; the first two stand there without being asked for.
SHOWN = (
    "shapes",
    "sources",
    "values",
    "gradients",
    "derivatives",
    "norms",
    "verdicts",
    "dtypes",
    "saved",
    "bytes",
    "hooks",
)
USUAL = SHOWN[:2]
# Every format, and the suffix of its files.
SUFFIXES = {
    "text": ".txt", "svg": ".svg", "png": ".png", "pdf": ".pdf", "dot": ".dot", "mermaid": ".mmd", "json": ".json",
    "html": ".html",
}  # fmt: skip
# Formats that hold the whole graph without being asked to.
WHOLE = ("json", "dot", "html")
