"""`graph` and `figure`."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradexplain.cli.checks import UsageError, at_least, graph_format, one_of
from gradexplain.cli.groups import Offer, group
from gradexplain.cli.options import Dtype, Inputs, Language, Output, Seed, TargetText, Width
from gradexplain.cli.output import USAGE, as_guest, deliver, faults_said, page_width, progress
from gradexplain.cli.request import read_request
from gradexplain.graphs.options import SHOWN, SUFFIXES, VIEWS, WHOLE
from gradexplain.locale.catalogue import say

if TYPE_CHECKING:
    from gradexplain.graphs.picture import Picture


def graph(
    target: TargetText,
    inputs: Inputs = None,
    view: Annotated[
        str, typer.Option(metavar="|".join(VIEWS), help="What the nodes are.", callback=one_of(VIEWS))
    ] = "backward",
    show: Annotated[
        str,
        typer.Option(metavar="WHAT,...", help=f"What stands on them: {', '.join(SHOWN)}.", callback=one_of(SHOWN, ",")),
    ] = "shapes,sources",
    depth: Annotated[
        int | None, typer.Option(metavar="N", help="Open modules to this depth.", callback=at_least(0))
    ] = None,
    module: Annotated[str | None, typer.Option(metavar="PATH", help="One module alone.")] = None,
    around: Annotated[str | None, typer.Option(metavar="NODE", help="What lies around one node.")] = None,
    radius: Annotated[int, typer.Option(metavar="N", help="How far around it.", callback=at_least(0))] = 2,
    path: Annotated[
        tuple[str, str] | None, typer.Option(metavar="FROM TO", help="What lies between two nodes.")
    ] = None,
    max_nodes: Annotated[
        int, typer.Option(metavar="N", help="Fold to at most so many nodes.", callback=at_least(1))
    ] = 25,
    unfolded: Annotated[bool, typer.Option("--unfolded", help="Draw every node.")] = False,
    dtype: Dtype = None,
    seed: Seed = 0,
    language: Language = "en",
    format: Annotated[
        str | None, typer.Option(metavar="|".join(SUFFIXES), help="Format.", callback=one_of(SUFFIXES))
    ] = None,
    output: Output = None,
    width: Width = None,
) -> None:
    """Draws the graph that torch built for a gradient.

    \b
    Large graphs are folded: modules, equal blocks to one with its number, chains. JSON and DOT hold every node.

    \b
    Examples:
      gradexplain graph "sum(x**2)" x=1,2,3
      gradexplain graph "sum(x * exp(x))" x=1,2 --show shapes,values,gradients --output graph.svg
      gradexplain graph "sum(x**2)" x=1,2,3 --view elements --output elements.pdf
      gradexplain graph network.py:loss x=randn(8,3) --module layers.0 --output block.html
    """
    with faults_said(language):
        chosen = graph_format(format, output, SUFFIXES)
        request = read_request(target, inputs, dtype=dtype, seed=seed)
        with progress(language), as_guest(target):
            loaded, tensors = request.load()
            import gradexplain.api as api

            picture = api.graph(
                loaded.called,
                tensors,
                view=view,
                show=[word.strip() for word in show.split(",") if word.strip()],
                title=target,
                locate=loaded.locate,
                output_name=request.output_name,
            )
            picture = _part(picture, module, around, radius, path)
            if not unfolded and (depth is not None or chosen not in WHOLE):
                picture = picture.fold(most=max_nodes, depth=depth)
        content = picture.render(chosen, language=language, width=width or page_width(), unfolded=True)
        deliver(content, output, language)


def _figures() -> Iterator[Offer]:
    """Yields what the command line says of every figure."""
    from gradexplain.figures.design import SUFFIXES as suffixes
    from gradexplain.figures.design import common, designs

    for design in designs().values():
        load = partial(getattr, design, "compute")
        yield Offer(design.name, design.help, load, common, tuple(suffixes), design.commands)


def _figure(offer: Offer, options: Mapping[str, Any], output: Path | None, format: str | None) -> None:
    """Draws one figure into a file, or as bytes into a pipe."""
    language = options.get("language") or "en"
    with faults_said(language):
        from gradexplain.documents.formats import format_of
        from gradexplain.figures.design import SUFFIXES, computed, designs, painted, rendered

        if output is None and (format is None or sys.stdout.isatty()):
            typed = shlex.join(["gradexplain", *sys.argv[1:]])
            raise UsageError("no_output", typed=typed, name=offer.name, formats=", ".join(offer.formats))
        chosen = format or format_of(output or Path(), SUFFIXES)
        own, shared = offer.split(options)
        design = designs()[offer.name]
        with progress(language):
            data = computed(design, own)
            content = rendered(painted(design, data, **shared), chosen)
        deliver(content, output, language)
        for key, told in design.advise(data):
            sys.stderr.write(say(f"figures.{key}", language, **told) + "\n")


def _list_figures(
    context: typer.Context,
    listed: Annotated[bool, typer.Option("--list", help="List the figures, each in one line.")] = False,
) -> None:
    if listed:
        for offer in _figures():
            sys.stdout.write(f"{offer.name:14}{offer.summary}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(USAGE)


figures = group(_figures, _figure, _list_figures)


def _part(
    picture: "Picture", module: str | None, around: str | None, radius: int, path: tuple[str, str] | None
) -> "Picture":
    """Returns the part of a picture that was asked for."""
    picture = picture.module(module) if module is not None else picture
    picture = picture.around(around, radius) if around is not None else picture
    return picture.path(*path) if path is not None else picture
