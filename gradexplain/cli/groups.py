"""A group of commands whose options are read from functions: listed at once, loaded when one of them is asked for.

Texts go on as they were typed; `parameters.read_all` turns them into values, so that a fault in one is said like every
other, in the language asked for.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradexplain.figures.parameters import Parameter, parameters_of, written
from gradexplain.locale.catalogue import LANGUAGES, say


@dataclass(frozen=True)
class Offer:
    """One command: `load()` gives the function that has its own options, `common` has those of the whole group.

    `help` says what it does, first in one line; `examples` are command lines; `output` says what `--output` names.
    """

    name: str
    help: str
    load: Callable[[], Callable[..., object]]
    common: Callable[..., object]
    formats: tuple[str, ...]
    examples: tuple[str, ...] = ()
    output: tuple[str, str] = ("FILE", "The file to write; its suffix tells the format.")

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return self.help.partition("\n")[0]

    @property
    def function(self) -> Callable[..., object]:
        """The function whose parameters are the options."""
        return self.load()


# Options that other tools have, and the sentence about each.
_FOREIGN_OPTIONS = {
    **dict.fromkeys(("--tolerance", "--tol", "--rtol", "--atol", "--eps"), "no_tolerance"),
    **dict.fromkeys(("--device", "--cuda", "--gpu"), "no_device"),
}


class Command(TyperCommand):
    """A command that knows the options which people expect and it does not have."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as fault:
            key = _FOREIGN_OPTIONS.get(getattr(fault, "option_name", ""))
            if key is None:
                raise
            language = next((b for a, b in pairwise(given) if a == "--language" and b in LANGUAGES), "en")
            return ctx.fail(say(f"usage.{key}", language))


Run = Callable[[Offer, Mapping[str, Any], Path | None, str | None], None]


def group(
    offers: Callable[[], Iterable[Offer]],
    run: Run,
    whole: Callable[..., None],
    meant: Callable[[str], str | None] = lambda name: None,
) -> typer.Typer:
    """Returns the commands that `offers()` gives, each of which calls `run(offer, texts, output, format)`.

    `whole` is what the group does by itself; `meant` returns the command that another word stands for.
    """

    class Group(TyperGroup):
        """Knows its commands only when it is asked for one of them."""

        def list_commands(self, ctx: Any) -> list[str]:
            return [offer.name for offer in offers()]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            found = next((offer for offer in offers() if offer.name == cmd_name), None)
            return None if found is None else _command(found, run)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            there = self.list_commands(ctx)
            args = [meant(args[0]) or args[0], *args[1:]]
            if args[0] not in there and not args[0].startswith("-"):
                close = difflib.get_close_matches(args[0], there, n=1, cutoff=0)[0]
                ctx.fail(f"There is no '{args[0]}'. Did you mean '{close}'? There are: {', '.join(there)}.")
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(offer.name, offer.summary) for offer in offers()])

    made = typer.Typer(cls=Group, invoke_without_command=True, rich_markup_mode=None)
    made.callback()(whole)
    return made


def _command(offer: Offer, run: Run) -> Any:
    """Returns one command, as typer makes it from a function of texts."""

    def called(*, output: Path | None, format: str | None, **texts: Any) -> None:
        run(offer, texts, output, format)

    options = [*map(_option, parameters_of(offer.function)), *map(_option, parameters_of(offer.common)), *_own(offer)]
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    called.__doc__ = _help(offer)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(offer.name)(called)
    return typer.main.get_command(app)


def _help(offer: Offer) -> str:
    lines = [f"  {line}" for line in offer.examples]
    return "\n".join([offer.help, "", *(["\b", "Examples:", *lines] if lines else [])])


def _option(parameter: Parameter) -> inspect.Parameter:
    """Returns a parameter of texts: what is not given is `None`, and the help text has the default."""
    fallback = "" if parameter.required or parameter.default is None else f" [default: {written(parameter.default)}]"
    words = parameter.help + ("" if parameter.kind is bool else fallback)
    metavar, default = parameter.metavar, ... if parameter.required else None
    if parameter.positional:
        extra: Any = typer.Argument(help=words, metavar=parameter.option, show_default=False)
        return _parameter(parameter.name, str | None, extra, default)
    if parameter.kind is bool and not parameter.many:
        names = f"{parameter.option}/--no-{parameter.option[2:]}"
        return _parameter(parameter.name, bool, typer.Option(names, help=words), parameter.default)
    extra = typer.Option(parameter.option, help=words, metavar=metavar, show_default=False)
    return _parameter(parameter.name, str | None, extra, default)


def _own(offer: Offer) -> list[inspect.Parameter]:
    output = typer.Option("--output", metavar=offer.output[0], help=offer.output[1])
    format = typer.Option("--format", metavar="|".join(offer.formats), help="Format, also of what goes into a pipe.")
    return [_parameter("output", Path | None, output, None), _parameter("format", str | None, format, None)]


def _parameter(name: str, type_: Any, extra: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[type_, extra]
    kind = inspect.Parameter.KEYWORD_ONLY
    if default is ...:
        return inspect.Parameter(name, kind, annotation=annotation)
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
