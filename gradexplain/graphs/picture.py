"""The picture of a graph: the graph's plain data with all that a user does with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from gradexplain.graphs.folding import MOST, fold
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.parts import around, between, in_module
from gradexplain.graphs.rendering import rendered, save


class Picture(Graph):
    """A graph that can be folded, taken apart, rendered and saved: what `gradexplain.graph` gives.

    `nodes` has every producer before its consumers; `edges` is by consumer, one for each use of a value; `again` are
    the edges by which one block of a repeat feeds the next, where only one block is drawn; `cuts` are no nodes of
    torch's. `tensors` is, for a picture of elements, the picture of the tensors. `whole` is how many nodes and edges
    there were before anything was folded or left out.

    >>> import torch, gradexplain as gx
    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> gx.graph((x * x).sum(), title="x²")
    <Picture of x²: 3 nodes, 3 edges>
    """

    tensors: Picture | None

    @classmethod
    def of(cls, graph: Graph) -> Picture:
        """Returns the picture of a graph, with that of its tensors."""
        own = {field.name: getattr(graph, field.name) for field in fields(graph)}
        return cls(**{**own, "tensors": None if graph.tensors is None else cls.of(graph.tensors)})

    def fold(self, *, most: int | None = None, depth: int | None = None) -> Picture:
        """Returns the picture with at most `most` nodes (25 without it), or with its modules opened to `depth`."""
        return fold(self, most=MOST if most is None else most, depth=depth)

    def module(self, path: str) -> Picture:
        """Returns the part of the picture that ran in the module at `path`."""
        return in_module(self, path)

    def around(self, node: str, radius: int = 2) -> Picture:
        """Returns the nodes at most `radius` edges away from `node`, which is named as in the picture."""
        return around(self, node, radius)

    def path(self, start: str, goal: str) -> Picture:
        """Returns the nodes on the ways that lead from `start` to `goal`."""
        return between(self, start, goal)

    def render(
        self, format: str = "text", *, language: str = "en", width: int = 100, unfolded: bool = False
    ) -> str | bytes:
        """Returns the picture in one of the formats, `png` and `pdf` as bytes.

        Pictures for people are folded to 25 nodes where they have not been folded yet, unless `unfolded`; JSON and DOT
        always hold every node.
        """
        return rendered(self, format, language=language, width=width, unfolded=unfolded)

    def save(self, path: str | Path, *, language: str = "en", unfolded: bool = False) -> None:
        """Writes the picture in the format of the file's suffix, whole or not at all."""
        save(self, Path(path), language=language, unfolded=unfolded)

    def __str__(self) -> str:
        return str(self.render("text"))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}: {len(self.nodes)} nodes, {len(self.edges)} edges>"

    def _repr_svg_(self) -> str:
        return str(self.render("svg"))
