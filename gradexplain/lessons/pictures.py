"""The pictures of a lesson, as SVG that is light or dark as the page is on which it stands."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.lessons.parts import Drawn, Lesson, Pictured


def pictures(lesson: Lesson, language: str) -> Iterator[tuple[int, bytes]]:
    """Yields the place among the parts and the picture of each that has one."""
    from gradexplain import figures
    from gradexplain.figures.design import adapting

    for place, part in enumerate(lesson.parts):
        match part:
            case Pictured(_, picture):
                found = picture.render("svg", language=language)
                yield place, found if isinstance(found, bytes) else found.encode()
            case Drawn(_, figure, options):
                make = getattr(figures, figure.replace("-", "_"))
                yield place, adapting(make(language=language, **options))
            case _:
                pass
