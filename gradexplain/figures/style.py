"""How every figure looks: colours, letters, sizes, and the language of its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from types import MappingProxyType
from typing import Any

from rich.cells import cell_len

from gradexplain.documents.fonts import chinese
from gradexplain.locale.catalogue import say
from gradexplain.mathematics.terms import number_text

DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKS = "osD^vPX*"
_FONTS = ("DejaVu Sans",)
# Sizes of letters, in points: on a page of their own, and in a column of a paper.
_SIZED = ("font.size", "axes.titlesize", "axes.titlepad", "axes.labelsize", "xtick.labelsize", "ytick.labelsize",
          "legend.fontsize")  # fmt: skip
_USUAL = (10.0, 11.0, 8.0, 10.0, 9.0, 9.0, 9.0)
_IN_COLUMN = (8.0, 8.0, 5.0, 7.5, 7.0, 7.0, 7.0)
# A title's columns in a column of a paper, and how far below a panel its legend begins there, in inches.
_COLUMN_TITLE, _BELOW = 50, 0.42
_DIGITS = 4
# What is smaller is written with a power of ten; so are all numbers of an axis that reaches as far as `_LARGE`.
_SMALL, _LARGE = 1e-3, 1e5
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Palette:
    """Colours for one background. The series are Okabe and Ito's, which colour-blind readers tell apart."""

    paper: str
    ink: str
    soft: str
    grid: str
    series: tuple[str, ...]
    # The map of a quantity: even in lightness, so that it reads the same in grey and to the colour-blind.
    scale: str = "cividis"


PALETTES: Mapping[str, Palette] = MappingProxyType({
    "light": Palette("#ffffff", "#1f2328", "#59636e", "#dfe3e8",
                     ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87A00", "#2F93CC", "#4d4d4d", "#8a7d00")),
    "dark": Palette("#14181d", "#e8ebef", "#a5afba", "#2f363e",
                    ("#56B4E9", "#F0824A", "#2FC79B", "#E39BC4", "#E69F00", "#8FB8FF", "#c8c8c8", "#F0E442")),
})  # fmt: skip


def dark_rules() -> str:
    """Returns the style sheet that makes what was painted for white paper as it is for black, on a page that is."""
    light, dark = ((p.paper, p.ink, p.soft, p.grid, *p.series) for p in (PALETTES["light"], PALETTES["dark"]))
    rules = (
        f'[style*="{kind}: {here.lower()}"]{{{kind}:{there}!important}}'
        for here, there in zip(light, dark, strict=True)
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


@dataclass(frozen=True)
class Style:
    """One look in one language. Where the machine has no Chinese letters, the words are English.

    In a `column` of a paper, letters have the size of its captions, and legends stand below their panels.
    """

    name: str = "light"
    language: str = "en"
    column: bool = False

    @property
    def palette(self) -> Palette:
        """The colours."""
        return PALETTES[self.name]

    @property
    def spoken(self) -> str:
        """The language that the words are in."""
        return self.language if self.language == "en" or chinese() else "en"

    def say(self, key: str, **data: object) -> str:
        """Returns a sentence of the table `figures`."""
        return say(f"figures.{key}", self.spoken, **data)

    def colour(self, number: int) -> str:
        """Returns the colour of a series; after the last the first comes again."""
        return self.palette.series[number % len(self.palette.series)]

    @property
    def note(self) -> float:
        """The size of the letters below the panels, in points."""
        return 6.5 if self.column else 8.5

    def head(self, axes: Any, text: str) -> None:
        """Sets the title of a panel; its formulas are between dollars, its lines no longer than the panel.

        What has a formula is written in one font alone: the first, which must then have the words.
        """
        text = "\n".join(wrapped(line, _COLUMN_TITLE) for line in text.split("\n")) if self.column else text
        family = [*chinese(), *_FONTS] if "$" in text and any(cell_len(letter) > 1 for letter in text) else None
        axes.set_title(text, family=family)

    def legend(self, axes: Any, of: Sequence[Any] = (), **more: Any) -> None:
        """Puts a legend beside a panel, or below it in a column, where it hides nothing: its own, or that of others."""
        from matplotlib.transforms import ScaledTranslation

        entries = (zip(*panel.get_legend_handles_labels(), strict=True) for panel in of or (axes,))
        handles = {label: handle for panel in entries for handle, label in panel}
        where = {"bbox_to_anchor": (1.02, 1.0)}
        if self.column:
            below = ScaledTranslation(0, -_BELOW, axes.figure.dpi_scale_trans)
            where = {"bbox_to_anchor": (0.0, 0.0), "bbox_transform": axes.transAxes + below}
        axes.legend(handles.values(), handles, loc="upper left", borderaxespad=0.0, **where, **more)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Lets matplotlib draw in this style inside the block; its settings are then as they were."""
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            for name, value in self._settings().items():
                mpl.rcParams[name] = value
            yield

    def _settings(self) -> Mapping[Any, Any]:
        colours = self.palette
        return {
            "font.family": [*_FONTS, *(chinese() if self.spoken != "en" else ())],
            **dict(zip(_SIZED, _IN_COLUMN if self.column else _USUAL, strict=True)), "axes.titlelocation": "left",
            "figure.facecolor": colours.paper, "savefig.facecolor": colours.paper, "axes.facecolor": colours.paper,
            "text.color": colours.ink, "axes.labelcolor": colours.ink, "axes.titlecolor": colours.ink,
            "axes.edgecolor": colours.soft, "xtick.color": colours.soft, "ytick.color": colours.soft,
            "xtick.labelcolor": colours.ink, "ytick.labelcolor": colours.ink,
            "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
            "axes.grid": True, "grid.color": colours.grid, "grid.linewidth": 0.8,
            "lines.linewidth": 1.8, "lines.markersize": 5.0,
            "legend.frameon": True, "legend.framealpha": 0.9, "legend.facecolor": colours.paper,
            "legend.edgecolor": colours.grid, "legend.fancybox": False,
            # What is the same on every machine: letters as outlines, no hinting, names that do not change. In PDF,
            # type 3 holds the letters of any font; type 42 calls those of Chinese ones TrueType, which they are not.
            "svg.fonttype": "path", "svg.hashsalt": "gradexplain", "pdf.fonttype": 3, "text.hinting": "none",
            "text.parse_math": True, "mathtext.fontset": "dejavusans", "axes.unicode_minus": True,
            "path.simplify": True,
        }  # fmt: skip


def number(value: float, digits: int = _DIGITS) -> str:
    """Returns a number as it is read: a minus, and powers of ten with raised digits."""
    if not isfinite(value):
        return str(value).replace("-", "−").replace("inf", "∞")
    small = 0 < abs(value) < _SMALL
    text = f"{value:.{digits}g}" if small else number_text(float(f"{value:.{digits}g}"), digits)
    text = f"{value:.{digits - 1}e}" if small and "e" not in text else text
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if small else mantissa
    if not exponent:
        return text.replace("-", "−")
    power = power_of_ten(int(exponent))
    return power if mantissa == "1" else f"{mantissa.replace('-', '−')}·{power}"


def below(value: float) -> str:
    """Returns what a rounding error lies below: its last digits differ from machine to machine, its power hardly."""
    return f"< {number(10.0 ** (floor(log10(value)) + 1))}" if value > 0 else "= 0"


def power_of_ten(exponent: int) -> str:
    """Returns 10⁻³ and the like."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def logarithmic(axes: Any, which: str = "y") -> None:
    """Makes an axis of a panel logarithmic, its numbers powers of ten, of which at least two are in sight."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    low, high = (log10(end) for end in getattr(axes, f"get_{which}lim")())
    if ceil(low) >= floor(high):
        getattr(axes, f"set_{which}lim")(10.0 ** floor(low), 10.0 ** max(ceil(high), floor(low) + 1))
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(round(log10(value)))))
    axis.set_minor_formatter(NullFormatter())


def plain(*axes: Any) -> None:
    """Writes the numbers of axes whole, never as a difference from one that stands elsewhere, and all in one way."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axis.set_major_formatter(FuncFormatter(lambda value, _, axis=axis: tick(value, *axis.get_view_interval())))


def tick(value: float, low: float, high: float) -> str:
    """Returns a number of an axis from `low` to `high`: with the power of ten of the larger end, if that is far."""
    most = max(abs(low), abs(high))
    if value == 0 or _SMALL <= most < _LARGE or not isfinite(most):
        return number(value, 6)
    power = floor(log10(most))
    return f"{number(value / 10.0**power, 6)}·{power_of_ten(power)}"


def wrapped(text: str, columns: int) -> str:
    """Returns a text in lines of so many columns; Chinese breaks anywhere, but no line begins with punctuation."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and cell_len(line) + cell_len(piece.rstrip()) > columns:
            lines.append(line.rstrip())
            line = piece
        else:
            line += piece
    return "\n".join([*lines, line.rstrip()])


def _pieces(text: str) -> list[str]:
    """Returns the parts of a text that stay together."""
    pieces: list[str] = []
    for letter in text:
        wide = cell_len(letter) == 2
        joined = pieces and (
            letter in "，。；：、）？！” " or not (wide or pieces[-1][-1] == " " or _closed(pieces[-1]))
        )
        if joined:
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def _closed(piece: str) -> bool:
    return cell_len(piece[-1]) == 2 and piece[-1] not in "（“"
