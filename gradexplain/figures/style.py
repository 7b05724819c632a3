"""How every figure looks: colours, letters, sizes, and the language of its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor, isfinite, log10
from types import MappingProxyType
from typing import Any

from rich.cells import cell_len

from gradexplain.documents.fonts import chinese
from gradexplain.locale.catalogue import say
from gradexplain.mathematics.terms import number_text
from gradexplain.targets.values import shown

DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKS = "osD^vPX*"
# What a title and a legend have room for, in columns.
_TITLE = 44
_DIGITS = 4
# What is smaller is written with a power of ten.
_SMALL = 1e-3
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


@dataclass(frozen=True)
class Style:
    """One look in one language. Where the machine has no Chinese letters, the words are English."""

    name: str = "light"
    language: str = "en"

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
            "font.family": ["DejaVu Sans", *(chinese() if self.spoken != "en" else ())],
            "font.size": 10.0, "axes.titlesize": 11.0, "axes.titlelocation": "left", "axes.titlepad": 8.0,
            "axes.labelsize": 10.0, "xtick.labelsize": 9.0, "ytick.labelsize": 9.0, "legend.fontsize": 9.0,
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
            "text.parse_math": False, "axes.unicode_minus": True, "path.simplify": True,
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
    return f"< {power_of_ten(floor(log10(value)) + 1)}" if value > 0 else "= 0"


def power_of_ten(exponent: int) -> str:
    """Returns 10⁻³ and the like; what is near 1 is written out."""
    return f"{10.0**exponent:g}" if -2 <= exponent <= 3 else f"10{str(exponent).translate(_SUPERSCRIPT)}"


def titled(expression: str, columns: int = _TITLE) -> str:
    """Returns an expression on one line, cut where a title has no more room."""
    return shown(" ".join(expression.split()), columns)


def logarithmic(axis: Any) -> None:
    """Writes the powers of ten of an axis without matplotlib's formulas, which would bring their own letters."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(round(log10(value)))))
    axis.set_minor_formatter(NullFormatter())


def plain(*axes: Any) -> None:
    """Writes the numbers of axes whole, never as a difference from one that stands elsewhere."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))


def beside(axes: Any, entries: tuple[Sequence[Any], Sequence[str]] | None = None, **more: Any) -> None:
    """Puts a legend to the right of a panel, where it hides nothing."""
    handles, labels = entries or axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, **more)


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
