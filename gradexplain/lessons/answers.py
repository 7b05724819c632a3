"""Whether an answer to an exercise is right, here and on a page that has no Python."""

from __future__ import annotations

import math
import struct
import unicodedata
from typing import Any

from gradexplain.errors import InputError
from gradexplain.lessons.claims import numbers_in, plain
from gradexplain.lessons.parts import Exercise, Lesson
from gradexplain.lessons.telling import judgement
from gradexplain.targets.values import Numbers, parse_value

# What an answer without a number of digits may differ by: nothing but how it was typed.
_TYPED = 1e-9


def judge(lesson: Lesson, answer: str, exercise: int | None = None, *, language: str = "en") -> tuple[bool, str]:
    """Says whether `answer` is right for `exercise` (from 1; the only one by default), and what is said of it.

    Raises `InputError` where there is no such exercise, or where numbers are asked for and `answer` holds none.
    """
    chosen = exercise_of(lesson, exercise)
    right = is_right(chosen, answer)
    return right, judgement(lesson, chosen, right, language)


def exercise_of(lesson: Lesson, number: int | None) -> Exercise:
    """Returns exercise `number`, from 1; raises `InputError` where there is none, or none is named of several."""
    count = len(lesson.exercises)
    if number is None and count > 1:
        raise InputError("which_exercise", name=lesson.name, count=count)
    if not 1 <= (number or 1) <= count:
        raise InputError("no_exercise", name=lesson.name, number=number or 1, count=count)
    return lesson.exercises[(number or 1) - 1]


def is_right(exercise: Exercise, text: str) -> bool:
    """Says whether `text` is the answer; raises `InputError` where numbers are asked for and it holds none."""
    answer, text = plain(exercise.answer), _spelled(text)
    if isinstance(answer, str):
        return _word(text) == _word(answer)
    try:
        source = parse_value(text).source
    except InputError as fault:
        raise InputError("answer_no_number", text=text) from fault
    if not isinstance(source, Numbers) or any(isinstance(number, complex) for number in source.flat):
        raise InputError("answer_no_number", text=text)
    numbers, shape = list(numbers_in(answer)), _shape(answer)
    alike = source.shape == shape or len(numbers) == len(source.flat) == 1
    return alike and all(_equal(a, g, exercise.digits) for a, g in zip(numbers, source.flat, strict=True))


def accepted(exercise: Exercise) -> dict[str, Any]:
    """Returns what is right, for a script to judge by: a word, or a shape and the ends of what each number may be.

    The ends are the outermost numbers of float64 that `is_right` takes, so that a script that compares agrees with it.
    """
    answer = plain(exercise.answer)
    if isinstance(answer, str):
        return {"word": _word(_spelled(answer))}
    ends = [[_end(a, exercise.digits, way) for way in (-math.inf, math.inf)] for a in numbers_in(answer)]
    return {"shape": _shape(answer), "ends": ends}


def _end(answer: Any, digits: int | None, way: float) -> float:
    """Returns the last number from the answer on in one direction that is taken for it, by halving."""
    inside, outside = _rank(float(answer)), _rank(float(answer) + math.copysign(1 + abs(answer), way))
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if _equal(answer, _of_rank(middle), digits) else (inside, middle)
    return _of_rank(inside)


def _rank(number: float) -> int:
    """Returns the place of a number among all of float64, in their order."""
    (bits,) = struct.unpack("<q", struct.pack("<d", number))
    return int(bits) if bits >= 0 else -(bits & (2**63 - 1))


def _of_rank(rank: int) -> float:
    (number,) = struct.unpack("<d", struct.pack("<d", 0.0) if rank == 0 else struct.pack("<q", abs(rank)))
    return math.copysign(number, rank)


def _spelled(text: str) -> str:
    """Returns what was typed with the letters, digits and minus of code, whatever keyboard it came from."""
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-")


def _word(text: str) -> str:
    return "".join(text.split()).casefold()


def _equal(answer: Any, given: Any, digits: int | None) -> bool:
    if digits is None:
        return bool(abs(answer - given) <= _TYPED * abs(answer))
    return f"{float(answer):.{digits - 1}e}" == f"{float(given):.{digits - 1}e}"


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, list) and value else ()
