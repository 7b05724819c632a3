"""The live page as a widget: what it asks comes over the kernel, which has the notebook's functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from gradexplain.documents.html import FRAME


class Board(anywidget.AnyWidget):
    """A page, and `answer`, which returns the JSON that answers what it asks; `still` stands where no widgets are."""

    _esm = Path(__file__).parent / "widget.js"
    _css = FRAME
    page = traitlets.Unicode().tag(sync=True)

    def __init__(self, page: str, still: str, answer: Callable[[bytes], bytes]) -> None:
        super().__init__(page=page)
        self._still, self._answer = still, answer
        self.on_msg(self._asked)

    def _asked(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        text = self._answer(str(content.get("body", "")).encode()).decode()
        self.send({"view": content.get("view"), "serial": content.get("serial"), "text": text})

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        found = super()._repr_mimebundle_(**kwargs)
        if found is not None:
            found[0]["text/html"] = self._still
        return found
