"""The command line: reads the arguments, calls the verbs, prints, exits.

Exit codes, the same for every command: 0 all agrees, 1 something differs, 2 usage or input error, 3 undecided.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gradexplain.catalogue import LANGUAGES, say
from gradexplain.commands import Offer, group
from gradexplain.drawing.options import SHOWN, SUFFIXES, VIEWS, WHOLE
from gradexplain.errors import GradexplainError, InputError
from gradexplain.parameters import Range

if TYPE_CHECKING:
    from gradexplain.drawing.picture import Picture
    from gradexplain.expression import Program
    from gradexplain.loading import Target
    from gradexplain.values import ValueSpec

EXIT_CODES = {"agrees": 0, "differs": 1, "cannot say": 3}
USAGE = 2
PAGES = ("terminal", "text", "markdown", "html")
FORMATS = (*PAGES, "json")
DTYPES = ("float16", "bfloat16", "float32", "float64")
_LEAST_WIDTH = 40
_USUAL_WIDTH = 100
_WIDEST = 120
# Seconds before work that is under way shows how far it is.
_PATIENCE = 2.0

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def gradexplain() -> None:
    """Explains and verifies PyTorch gradients: where every number comes from, and whether it is right.

    Exit codes: 0 all agrees, 1 something differs, 2 usage or input error, 3 could not be decided.
    """


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="An expression, package.module:function, or path/file.py:function.")],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="The inputs.")] = None,
    wrt: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Differentiate by this input alone.")] = None,
    order: Annotated[int, typer.Option(metavar="N", help="Second and higher derivatives as well.")] = 1,
    cotangent: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Weights of an output that is not one number.")
    ] = None,
    by_hand: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FORMULA", help="Hold your own formula against the gradient.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the floating inputs.")] = None,
    element: Annotated[str | None, typer.Option(metavar='"x[1]"', help="Follow one element alone.")] = None,
    module: Annotated[str | None, typer.Option(metavar="NAME", help="Open one module of a network.")] = None,
    effort: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time a check may take in running the function again.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of randn, rand, randint and of the run.")] = 0,
    language: Annotated[str, typer.Option(metavar="en|zh", help="Language.")] = "en",
    format: Annotated[str | None, typer.Option(metavar="|".join(FORMATS), help="Format.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole tensors in JSON, however large.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file; its suffix tells.")] = None,
    width: Annotated[int | None, typer.Option(metavar="N", help="Width in columns.")] = None,
) -> None:
    """Shows where every number of a gradient comes from, and checks it.

    \b
    VALUE is 3 or 1,2,3 or "[[1,2],[3,4]]" or randn(3,2), ones(5), arange(1,6), linspace(-2,2,9), @file.npy, @file.pt,
    each with an optional type: 1,2,3:float64.

    \b
    Examples:
      gradexplain explain "sum(x**2)" x=1,2,3
      gradexplain explain "x**2 + 2*x" x=3 --by-hand "x=2*x + 2"
      gradexplain explain "sum(A @ B)" "A=[[1,2],[3,4]]" "B=[[2,1],[0,3]]" --language zh
      gradexplain explain "h = tanh(x @ W + b); cross_entropy(h, t)" "x=randn(2,3)" "W=randn(3,4)" b=0,0,0,0 t=1,3:int64
      gradexplain explain "x**3" x=3 --order 2
      gradexplain explain my_module:loss x=randn(5) --element "x[1]" --output explanation.md
    """
    with _faults_said(language):
        _choice("--language", language, LANGUAGES)
        chosen = _format(format, output)
        _numbers(width, seed, effort)
        if dtype is not None and dtype not in DTYPES:
            raise _Usage("unknown_dtype", name=dtype, names=", ".join(DTYPES))
        request = _request(target, inputs or [], by_hand or [], cotangent)
        loaded, tensors = request.load(dtype, seed)
        import gradexplain.api as api

        with _progress(language):
            explanation = api.explain(
                loaded.module if loaded.module is not None else loaded.function,
                tensors,
                wrt=wrt or None,
                order=order,
                cotangent=request.cotangent_tensor(),
                by_hand=request.formulas(),
                dtype=_torch_dtype(dtype),
                element=element,
                module=module,
                effort=effort,
                target=target,
                locate=loaded.locate,
                output_name=request.output_name,
            )
        if chosen == "json":
            asked = request.origin(seed, dtype, wrt, order=order, element=element, module=module, effort=effort)
            explanation = replace(explanation, origin=asked)
            content = explanation.to_json(full=full) + "\n"
        else:
            content = explanation.render(chosen, language=language, width=width or _page_width())
        _deliver(content, output, language)
    raise typer.Exit(EXIT_CODES[explanation.verdict])


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="As for explain; or a saved RECEIPT.json, to be derived again.")],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="The inputs.")] = None,
    wrt: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Differentiate by this input alone.")] = None,
    by_hand: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FORMULA", help="Hold your own formula against the gradient.")
    ] = None,
    each_operation: Annotated[
        bool, typer.Option("--each-operation", help="Check every operation of the graph alone, wrong or not.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Compare every element of the Jacobian.")] = False,
    second: Annotated[bool, typer.Option("--second", help="Verify the second derivatives as well.")] = False,
    batched: Annotated[bool, typer.Option("--batched", help="Compare gradients computed at once (vmap).")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Ask sympy for the derivative with 50 digits.")] = False,
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the floating inputs.")] = None,
    effort: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time a check may take in running the function again.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of randn, rand, randint and of the run.")] = 0,
    language: Annotated[str, typer.Option(metavar="en|zh", help="Language.")] = "en",
    format: Annotated[str | None, typer.Option(metavar="|".join(FORMATS), help="Format.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file; its suffix tells.")] = None,
    width: Annotated[int | None, typer.Option(metavar="N", help="Width in columns.")] = None,
) -> None:
    """Says whether a gradient is right, by means that share nothing with torch's backward, and names what is wrong.

    There is no tolerance to choose: every difference is held against the error bounds of the methods that differ. Where
    the whole does not agree, each operation is checked alone, and the wrong one is named with its line, input, elements
    and what the error looks like.

    \b
    Examples:
      gradexplain verify my_module:loss x=randn(5,3) t=0,1,2,0,1:int64
      gradexplain verify losses.py:focal "x=randn(8):float32" --each-operation
      gradexplain verify "sum(relu(x) * x)" x=0,1,-1
      gradexplain verify "sum(x**2)" x=1,2,3 --by-hand "x=3*x"
      gradexplain verify "log_softmax(x, 0)" "x=randn(4)" --full --second --batched --exact
      gradexplain verify my_module:loss "x=randn(5)" --output receipt.json
      gradexplain verify receipt.json

    A receipt is an explanation or a verification saved as JSON. Every claim in it is derived again from its target,
    which is loaded and run, and nothing else: exit code 1 if the receipt is refused or its gradient is wrong.
    """
    with _faults_said(language):
        _choice("--language", language, LANGUAGES)
        chosen = _format(format, output)
        _numbers(width, seed, effort)
        if dtype is not None and dtype not in DTYPES:
            raise _Usage("unknown_dtype", name=dtype, names=", ".join(DTYPES))
        if target.endswith(".json"):
            verdict = _receipt(Path(target), inputs or [], output, language)
            raise typer.Exit(EXIT_CODES[verdict])
        request = _request(target, inputs or [], by_hand or [], None)
        loaded, tensors = request.load(dtype, seed)
        import gradexplain.api as api

        asked: dict[str, Any] = {
            "each_operation": each_operation,
            "full": full,
            "second": second,
            "batched": batched,
            "exact": exact,
            "effort": effort,
        }
        with _progress(language):
            report = api.verify(
                loaded.module if loaded.module is not None else loaded.function,
                tensors,
                wrt=wrt or None,
                by_hand=request.formulas(),
                dtype=_torch_dtype(dtype),
                target=target,
                locate=loaded.locate,
                **asked,
            )
        report = replace(report, origin=request.origin(seed, dtype, wrt, **asked))
        _deliver(report.render(chosen, language=language, width=width or _page_width()), output, language)
    raise typer.Exit(EXIT_CODES[report.verdict])


@app.command()
def graph(
    target: Annotated[str, typer.Argument(help="An expression, package.module:function, or path/file.py:function.")],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="The inputs.")] = None,
    view: Annotated[str, typer.Option(metavar="|".join(VIEWS), help="What the nodes are.")] = "backward",
    show: Annotated[
        str, typer.Option(metavar="WHAT,...", help=f"What stands on them: {', '.join(SHOWN)}.")
    ] = "shapes,sources",
    depth: Annotated[int | None, typer.Option(metavar="N", help="Open modules to this depth.")] = None,
    module: Annotated[str | None, typer.Option(metavar="PATH", help="One module alone.")] = None,
    around: Annotated[str | None, typer.Option(metavar="NODE", help="What lies around one node.")] = None,
    radius: Annotated[int, typer.Option(metavar="N", help="How far around it.")] = 2,
    path: Annotated[
        tuple[str, str] | None, typer.Option(metavar="FROM TO", help="What lies between two nodes.")
    ] = None,
    max_nodes: Annotated[int, typer.Option(metavar="N", help="Fold to at most so many nodes.")] = 25,
    unfolded: Annotated[bool, typer.Option("--unfolded", help="Draw every node.")] = False,
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the floating inputs.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of randn, rand, randint and of the run.")] = 0,
    language: Annotated[str, typer.Option(metavar="en|zh", help="Language.")] = "en",
    format: Annotated[str | None, typer.Option(metavar="|".join(SUFFIXES), help="Format.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file; its suffix tells.")] = None,
    width: Annotated[int | None, typer.Option(metavar="N", help="Width in columns.")] = None,
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
    with _faults_said(language):
        _choice("--language", language, LANGUAGES)
        _choice("--view", view, VIEWS)
        asked = [word.strip() for word in show.split(",") if word.strip()]
        for word in asked:
            _choice("--show", word, SHOWN)
        chosen = _graph_format(format, output)
        _numbers(width, seed, 1.0)
        _at_least({"--max-nodes": (max_nodes, 1), "--radius": (radius, 0), "--depth": (depth or 0, 0)})
        if dtype is not None and dtype not in DTYPES:
            raise _Usage("unknown_dtype", name=dtype, names=", ".join(DTYPES))
        request = _request(target, inputs or [], [], None)
        loaded, tensors = request.load(dtype, seed)
        import gradexplain.api as api

        with _progress(language):
            picture = api.graph(
                loaded.module if loaded.module is not None else loaded.function,
                tensors,
                view=view,
                show=asked,
                title=target,
                locate=loaded.locate,
                output_name=request.output_name,
            )
            picture = _part(picture, module, around, radius, path)
            if not unfolded and (depth is not None or chosen not in WHOLE):
                picture = picture.fold(most=max_nodes, depth=depth)
            content = picture.render(chosen, language=language, width=width or _page_width(), unfolded=True)
        _deliver(content, output, language)


@app.command()
def functions() -> None:
    """Lists the functions, methods, attributes and constants that an expression may use."""
    import textwrap

    from gradexplain.vocabulary import published

    for family, names in published():
        sys.stdout.write(
            f"{family}\n{textwrap.fill(' '.join(names), 98, initial_indent='  ', subsequent_indent='  ')}\n\n"
        )


def _figures() -> Iterator[Offer]:
    """Yields what the command line says of every figure."""
    from gradexplain.figures.design import SUFFIXES as suffixes
    from gradexplain.figures.design import common, designs

    for design in designs().values():
        load = partial(getattr, design, "compute")
        yield Offer(design.name, design.help, load, common, tuple(suffixes), design.commands)


def _figure(offer: Offer, texts: Mapping[str, Any], output: Path | None, format: str | None) -> None:
    """Draws one figure into a file, or as bytes into a pipe."""
    language = texts.get("language") or "en"
    with _faults_said(language):
        from gradexplain.figures.design import designs, drawn, format_of, rendered
        from gradexplain.parameters import read_all

        if output is None and (format is None or sys.stdout.isatty()):
            raise _Usage("no_output", name=offer.name, formats=", ".join(offer.formats))
        if format is not None:
            _choice("--format", format, offer.formats)
        chosen = format or format_of(output or Path())
        values, shared = read_all(offer.function, texts), read_all(offer.common, texts)
        with _progress(language):
            content = rendered(drawn(designs()[offer.name], values, **shared), chosen)
        _deliver(content, output, language)


app.add_typer(group(_figures, _figure), name="figure", help="Draws a figure of gradients, computed by torch.")


def _lessons() -> Iterator[Offer]:
    """Yields what the command line says of every lesson."""
    from gradexplain import lessons

    for name in lessons.names():
        help = f"{lessons.told(name, 'title')}\n\n{lessons.told(name, 'question')}"
        examples = ("", " --language zh", " --output course", " --exercise 1 --answer 8")
        yield Offer(
            name,
            help,
            partial(lessons.function_of, name),
            _lesson_options,
            PAGES,
            tuple(f"gradexplain lesson {name}{options}" for options in examples),
            ("DIR", "Write the lesson and its figures into this folder."),
        )


def _lesson_options(
    *,
    language: Annotated[Literal["en", "zh"], "Language of the words."] = "en",
    answer: Annotated[str | None, "Check your answer to an exercise."] = None,
    exercise: Annotated[int | None, "Which exercise it answers, where there are several.", Range(least=1)] = None,
    width: Annotated[int | None, "Width in columns."] = None,
) -> None:
    """The options of every lesson."""


def _lesson(offer: Offer, texts: Mapping[str, Any], output: Path | None, format: str | None) -> None:
    """Runs one lesson and shows it, writes it, or judges an answer."""
    language = texts.get("language") or "en"
    with _faults_said(language):
        _choice("--language", language, LANGUAGES)
        if format is not None:
            _choice("--format", format, PAGES)
        from gradexplain import lessons
        from gradexplain.parameters import read_all

        options, shared = read_all(offer.function, texts), read_all(offer.common, texts)
        width = shared.get("width")
        _numbers(width, 0, 1.0)
        with _progress(language):
            found = lessons.run(offer.name, **options)
        if shared.get("answer") is not None:
            right, page = lessons.judge(found, shared["answer"], shared.get("exercise"), language=language)
            sys.stdout.write(page)
            raise typer.Exit(0 if right else 1)
        if output is None:
            chosen = format or ("terminal" if sys.stdout.isatty() else "text")
            _deliver(found.render(chosen, language=language, width=width or _page_width()), None, language)
        else:
            written = lessons.save(found, output, format or "markdown", language=language)
            sys.stdout.write(say("explanation.complete", language, path=written) + "\n")
    raise typer.Exit(0 if found.holds else 1)


def _course(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Run every lesson, and write the course.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write it into.")] = None,
    format: Annotated[str | None, typer.Option(metavar="|".join(PAGES), help="Format.")] = None,
    language: Annotated[str | None, typer.Option(metavar="en|zh", help="Language.")] = None,
) -> None:
    """Teaches automatic differentiation: every number of a lesson is computed while it runs, every claim checked.

    \b
    Examples:
      gradexplain lesson
      gradexplain lesson chain-rule
      gradexplain lesson descent --lr 1.01 --steps 50 --language zh
      gradexplain lesson chain-rule --answer 8
      gradexplain lesson --all --output course
    """
    with _faults_said(language or "en"):
        if context.invoked_subcommand is not None:
            if everything or output is not None or format is not None or language is not None:
                raise _Usage("before_the_name", name=context.invoked_subcommand)
            return
        chosen = language or "en"
        _choice("--language", chosen, LANGUAGES)
        if format is not None:
            _choice("--format", format, PAGES)
        from gradexplain import lessons

        if not everything:
            sys.stdout.write(lessons.listing(chosen, _page_width()))
            return
        if output is None:
            raise _Usage("no_folder")
        with _progress(chosen):
            found = lessons.save_course(output, format or "markdown", language=chosen)
        sys.stdout.write(say("explanation.complete", chosen, path=output) + "\n")
    raise typer.Exit(0 if all(lesson.holds for lesson in found) else 1)


app.add_typer(group(_lessons, _lesson, _course), name="lesson")


def _receipt(path: Path, inputs: Sequence[str], output: Path | None, language: str) -> str:
    """Derives a receipt again, says what came of it, and returns the verdict that may be relied on."""
    if inputs:
        raise _Usage("receipt_inputs", text=inputs[0])
    from gradexplain.receipts import check_receipt

    with _progress(language):
        found = check_receipt(path)
    _deliver(found.render(language) + "\n", output, language)
    return found.verdict


# ------------------------------------------------------------------------------------------------------- request


class _Request:
    """The arguments of `explain`, read and checked before torch is loaded."""

    def __init__(
        self,
        target: Any,
        values: "Mapping[str, ValueSpec]",
        formulas: "Mapping[str, Program]",
        cotangent: "ValueSpec | None",
    ) -> None:
        self.target = target
        self.values = values
        self._formulas = formulas
        self._cotangent = cotangent

    @property
    def output_name(self) -> str | None:
        """The name of an expression's output."""
        return getattr(self.target.place, "output", None)

    def load(self, dtype: str | None, seed: int) -> "tuple[Target, dict[str, Any]]":
        """Returns the target's function and its inputs as tensors."""
        import torch

        from gradexplain.loading import load, match_inputs
        from gradexplain.values import tensor_of

        torch.manual_seed(seed)
        loaded = load(self.target)
        match_inputs(loaded, list(self.values))
        generator = torch.Generator().manual_seed(seed)
        tensors = {n: tensor_of(v, name=n, dtype=dtype, generator=generator) for n, v in self.values.items()}
        return loaded, tensors

    def origin(self, seed: int, dtype: str | None, wrt: Sequence[str] | None, **asked: Any) -> Any:
        """Returns what was typed, for the receipt."""
        from gradexplain.origin import Origin

        return Origin(
            inputs={name: value.text for name, value in self.values.items()},
            seed=seed,
            dtype=dtype,
            wrt=tuple(wrt or ()),
            cotangent=None if self._cotangent is None else self._cotangent.text,
            by_hand={name: program.text for name, program in self._formulas.items()},
            **asked,
        )

    def cotangent_tensor(self) -> Any:
        """Returns the cotangent, `None` where none was given."""
        from gradexplain.values import tensor_of

        return None if self._cotangent is None else tensor_of(self._cotangent, name="cotangent", dtype=None)

    def formulas(self) -> dict[str, Any]:
        """Returns the formulas given by hand as callables of the inputs."""
        from gradexplain.expression import Runner

        for name, program in self._formulas.items():
            unknown = [n for n in program.inputs if n not in self.values]
            if unknown:
                raise _Usage("by_hand_names", name=name, unknown=", ".join(unknown), names=", ".join(self.values))
        return {name: _Formula(Runner(program), program.inputs) for name, program in self._formulas.items()}


class _Formula:
    """A formula given by hand; `inputs` are the names that it asks for."""

    def __init__(self, runner: Any, inputs: tuple[str, ...]) -> None:
        self.runner = runner
        self.inputs = inputs

    def __call__(self, **given: Any) -> Any:
        return self.runner(**{name: given[name] for name in self.inputs})


def _request(target: str, inputs: Sequence[str], by_hand: Sequence[str], cotangent: str | None) -> _Request:
    from gradexplain.expression import parse_formula
    from gradexplain.loading import parse_target
    from gradexplain.values import parse_assignments, parse_value

    formulas: dict[str, Any] = {}
    for text in by_hand:
        name, equals, formula = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise _Usage("bad_by_hand", text=text)
        if name in formulas:
            raise _Usage("twice_by_hand", name=name)
        formulas[name] = parse_formula(formula)
    place = parse_target(target)
    values = parse_assignments(inputs)
    program_inputs = getattr(place.place, "inputs", None)
    if program_inputs is not None:
        _match_expression(target, program_inputs, values)
    return _Request(place, values, formulas, None if cotangent is None else parse_value(cotangent))


def _match_expression(target: str, takes: Sequence[str], given: Mapping[str, object]) -> None:
    """Matches an expression's inputs before torch is loaded; `loading.match_inputs` does it for functions."""
    missing = [name for name in takes if name not in given]
    superfluous = [name for name in given if name not in takes]
    names = ", ".join(takes) or "–"
    if superfluous:
        raise InputError("superfluous_inputs", target=target, names=", ".join(superfluous), takes=names)
    if missing:
        example = " ".join(f"{name}=1,2,3" for name in missing)
        raise InputError("missing_inputs", target=target, names=", ".join(missing), takes=names, example=example)


class _Usage(InputError):
    """A usage error; its sentence stands in the table `usage`."""

    def sentence(self, language: str = "en") -> str:
        return say(f"usage.{self.key}", language, **self.data)


def _choice(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise _Usage("unknown_choice", option=option, name=value, names=", ".join(allowed))


def _format(format: str | None, output: Path | None) -> str:
    if format is not None:
        _choice("--format", format, FORMATS)
        return format
    if output is None:
        return "terminal" if sys.stdout.isatty() else "text"
    suffixes = {".txt": "text", ".md": "markdown", ".html": "html", ".json": "json"}
    if output.suffix not in suffixes:
        raise InputError("unknown_suffix", path=output, names=", ".join(suffixes))
    return suffixes[output.suffix]


def _part(
    picture: "Picture", module: str | None, around: str | None, radius: int, path: tuple[str, str] | None
) -> "Picture":
    """Returns the part of a picture that was asked for."""
    picture = picture.module(module) if module is not None else picture
    picture = picture.around(around, radius) if around is not None else picture
    return picture.path(*path) if path is not None else picture


def _at_least(numbers: Mapping[str, tuple[int, int]]) -> None:
    for option, (number, least) in numbers.items():
        if number < least:
            raise _Usage("too_small", option=option, number=number, least=least)


def _graph_format(format: str | None, output: Path | None) -> str:
    if format is None and output is None:
        return "text"
    if format is None:
        found = next((name for name, suffix in SUFFIXES.items() if output and output.suffix == suffix), None)
        if found is None:
            raise InputError("unknown_suffix", path=output, names=", ".join(SUFFIXES.values()))
        return found
    _choice("--format", format, tuple(SUFFIXES))
    if format in ("png", "pdf") and output is None and sys.stdout.isatty():
        raise _Usage("bytes_to_terminal", format=format)
    return format


def _numbers(width: int | None, seed: int, effort: float) -> None:
    if not 0 < effort < float("inf"):
        raise _Usage("bad_effort", effort=effort)
    if width is not None and width < _LEAST_WIDTH:
        raise _Usage("narrow", width=width, least=_LEAST_WIDTH)
    if not 0 <= seed < 2**63:
        raise _Usage("bad_seed", seed=seed)


def _torch_dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, name)


def _page_width() -> int:
    """Returns the terminal's width within reason; a page that goes elsewhere always has the same."""
    import shutil

    if not sys.stdout.isatty():
        return _USUAL_WIDTH
    return max(_LEAST_WIDTH, min(shutil.get_terminal_size((_USUAL_WIDTH, 40)).columns, _WIDEST))


# -------------------------------------------------------------------------------------------------------- output


def _deliver(content: str | bytes, output: Path | None, language: str) -> None:
    if output is None:
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()
        return
    from gradexplain.narration import write

    write(output, content)
    sys.stdout.write(say("explanation.complete", language, path=output) + "\n")


@contextmanager
def _progress(language: str) -> Iterator[None]:
    """Shows that work goes on, and of what takes longer than two seconds how far it is; on a terminal alone."""
    if not sys.stderr.isatty():
        yield
        return
    import time

    from rich.console import Console
    from rich.progress import Progress

    from gradexplain.progress import followed_by

    started, tasks = time.monotonic(), {}
    with Progress(console=Console(stderr=True), transient=True, disable=False) as bar:
        tasks[""] = bar.add_task(say("explanation.working", language), total=None)

        def follow(what: str, done: int, total: int) -> None:
            if time.monotonic() - started < _PATIENCE:
                return
            if what not in tasks:
                tasks[what] = bar.add_task(say(f"verification.{what}", language), total=total)
            bar.update(tasks[what], completed=done, total=total)

        with followed_by(follow):
            yield


@contextmanager
def _faults_said(language: str) -> Iterator[None]:
    """Turns every fault into one sentence on standard error and exit code 2; our own faults say that they are ours."""
    spoken = language if language in LANGUAGES else "en"
    try:
        yield
    except typer.Exit:
        raise
    except GradexplainError as fault:
        _fail(fault.sentence(spoken))
    except KeyboardInterrupt:
        _fail(say("usage.interrupted", spoken))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(USAGE) from None
    except Exception as fault:
        if os.environ.get("GRADEXPLAIN_TRACEBACK"):
            raise
        message = str(fault).strip().split("\n", 1)[0]
        _fail(say("usage.internal", spoken, kind=type(fault).__name__, message=message))


def _fail(sentence: str) -> None:
    sys.stderr.write(f"gradexplain: {sentence}\n")
    raise typer.Exit(USAGE)
