"""Errors that a user can act on. Each names a sentence of the catalogue and the data that failed."""

from gradexplain.locale.catalogue import say


class GradexplainError(Exception):
    """Base of every error we raise for a person; `sentence(language)` says what was seen, where, and what to do."""

    def __init__(self, key: str, **data: object) -> None:
        super().__init__(key)
        self.key = key
        self.data = data

    def sentence(self, language: str = "en") -> str:
        """Returns the message in `language`."""
        return say(f"errors.{self.key}", language, **self.data)

    def __str__(self) -> str:
        return self.sentence()


def message_of(fault: BaseException) -> str:
    """Returns what a failure, or what caused it, says in one line."""
    first = fault.__cause__ or fault
    message = str(first).strip().split("\n", 1)[0]
    return message if isinstance(first, GradexplainError) else f"{type(first).__name__}: {message}".removesuffix(": ")


class InputError(GradexplainError):
    """A target, a value or an option that cannot be used."""


class OptionError(InputError, TypeError):
    """An option that does not exist: to Python, an unexpected keyword argument."""


class RunError(GradexplainError):
    """The user's computation ran, but cannot be differentiated as asked, or failed on its own."""


class NoGradientError(RunError):
    """The user's computation ran, and no gradient of it leads from its output to an input."""


class SideError(NoGradientError):
    """One side of a comparison gives no gradient; its own sentence says why."""

    def __init__(self, side: str, cause: NoGradientError) -> None:
        super().__init__("compare_side")
        self.side, self.cause = side, cause

    def sentence(self, language: str = "en") -> str:
        """Returns the message in `language`."""
        return say("errors.compare_side", language, side=self.side, cause=self.cause.sentence(language))
