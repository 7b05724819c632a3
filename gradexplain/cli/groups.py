"""Commands as typer has them, and groups of commands whose options are read from functions.

A group's commands are listed at once, and loaded when one of them is asked for. A fault in an option is said like
every other, in the language asked for.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradexplain.cli.checks import UsageError, one_of
from gradexplain.cli.output import fail, faults_said
from gradexplain.errors import GradexplainError
from gradexplain.locale.catalogue import LANGUAGES, say

if TYPE_CHECKING:
    from gradexplain.figures.parameters import Parameter


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

    def split(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the options that were given: the function's own, and those of the whole group."""
        own = inspect.signature(self.load()).parameters
        given = {name: value for name, value in options.items() if value is not None}
        return {n: v for n, v in given.items() if n in own}, {n: v for n, v in given.items() if n not in own}


# Options that other tools have, and the sentence about each.
_FOREIGN_OPTIONS = {
    **dict.fromkeys(("--tolerance", "--tol", "--rtol", "--atol", "--eps"), "no_tolerance"),
    **dict.fromkeys(("--device", "--cuda", "--gpu"), "no_device"),
}


def language_of(args: Iterable[str]) -> str:
    """Returns the language that is asked for among arguments that are not parsed yet."""
    typed = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--language=") else [arg])]
    return next((b for a, b in pairwise(typed) if a == "--language" and b in LANGUAGES), "en")


def parsed(context: Any, args: list[str], parse: Callable[[Any, list[str]], Any]) -> Any:
    """Parses arguments; says in the language asked for what our checks refuse, and what only other tools have."""
    language = language_of(args)
    try:
        return parse(context, args)
    except GradexplainError as fault:
        return fail(fault.sentence(language))
    except Exception as fault:
        key = _FOREIGN_OPTIONS.get(getattr(fault, "option_name", ""))
        if key is None:
            raise
        return context.fail(say(f"usage.{key}", language))


class Command(TyperCommand):
    """A command whose faults are our sentences."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return parsed(ctx, args, super().parse_args)


Run = Callable[[Offer, Mapping[str, Any], Path | None, str | None], None]


def group(
    offers: Callable[[], Iterable[Offer]],
    run: Run,
    whole: Callable[..., None],
    meant: Callable[[str], str | None] = lambda name: None,
) -> typer.Typer:
    """Returns the commands that `offers()` gives, each of which calls `run(offer, options, output, format)`.

    `whole` is what the group does by itself; `meant` returns the command that another word stands for.
    """

    class Group(TyperGroup):
        """Knows its commands only when it is asked for one of them."""

        def parse_args(self, ctx: Any, args: list[str]) -> Any:
            return parsed(ctx, args, super().parse_args)

        def list_commands(self, ctx: Any) -> list[str]:
            return [offer.name for offer in offers()]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            found = next((offer for offer in offers() if offer.name == cmd_name), None)
            return None if found is None else _command(found, run)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            there = self.list_commands(ctx)
            with faults_said(language_of(args)):
                args = [meant(args[0]) or args[0], *args[1:]]
                if args[0] not in there and not args[0].startswith("-"):
                    close = difflib.get_close_matches(args[0], there, n=1, cutoff=0)[0]
                    raise UsageError("unknown_name", name=args[0], close=close, names=", ".join(there))
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(offer.name, offer.summary) for offer in offers()])

    made = typer.Typer(cls=Group, invoke_without_command=True, rich_markup_mode=None)
    made.callback()(whole)
    return made


def _command(offer: Offer, run: Run) -> Any:
    """Returns one command, as typer makes it from a function."""
    from gradexplain.figures.parameters import Parameter, parameters_of

    def called(*, output: Path | None, format: str | None, **options: Any) -> None:
        run(offer, options, output, format)

    shared = inspect.signature(offer.common).parameters.values()
    parameters = [
        *map(_option, parameters_of(offer.load())),
        *(_option(p) if isinstance(p, Parameter) else p for p in parameters_of(offer.common) or shared),
        _named("output", Path | None, typer.Option(metavar=offer.output[0], help=offer.output[1])),
        _named(
            "format",
            str | None,
            typer.Option(
                metavar="|".join(offer.formats),
                help="Format, also of what goes into a pipe.",
                callback=one_of(offer.formats),
            ),
        ),
    ]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    examples = "\n".join(["\b", "Examples:", *(f"  {line}" for line in offer.examples)]) if offer.examples else ""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(offer.name, cls=Command, help=f"{offer.help}\n\n{examples}")(called)
    return typer.main.get_command(app)


def _option(parameter: Parameter) -> inspect.Parameter:
    """Returns a parameter as typer reads it: what is not given is `None`, and the help text has the default."""
    from gradexplain.figures.parameters import read, written

    option, default = parameter.option, parameter.default
    if parameter.kind is bool and not parameter.many:
        return _named(parameter.name, bool, typer.Option(f"{option}/--no-{option[2:]}", help=parameter.help), default)
    fallback = "" if parameter.required or default is None else f" [default: {written(default)}]"
    kind, names = (typer.Argument, ()) if parameter.positional else (typer.Option, (option,))
    info = kind(
        *names,
        metavar=option if parameter.positional else parameter.metavar,
        help=parameter.help + fallback,
        parser=partial(read, parameter),
        show_default=False,
    )
    return _named(parameter.name, str | None, info, default if parameter.required else None)


def _named(name: str, type_: Any, info: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, info])
