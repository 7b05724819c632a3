"""What became of a receipt: it is read, held against itself, then against a fresh record of the same question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradexplain.errors import InputError
from gradexplain.receipts.reading import flaws, text_of, tree_of
from gradexplain.receipts.report import Ledger, ReceiptReport
from gradexplain.receipts.schema import misfits
from gradexplain.targets.values import shown

__all__ = ["ReceiptReport", "check_receipt"]


def check_receipt(receipt: str | Path, *, trust: bool = False) -> ReceiptReport:
    """Asks the question of a receipt again, and holds the two records against each other.

    `receipt` is a file, or its text. It holds where the same question gives the same record: to the last digit with the
    same torch on the same kind of machine, within rounding elsewhere. Its equations are recomputed from their own
    digits before anything is run.

    A receipt of a program can only be checked by running that program: with `trust=True`, its target is imported and
    run, if the file is still the one that the receipt was made from. An expression runs nobody's code, and needs no
    trust. Raises `InputError` where the file cannot be read, is not JSON, or where the target may not be run or cannot
    be loaded here.

    >>> import gradexplain as gx
    >>> gx.check_receipt('{"gradients": 3}').outcome
    'refused'
    """
    tree = tree_of(text_of(receipt))
    ledger = Ledger()
    ledger.refusals += list(flaws(tree)) or list(misfits(tree))
    if ledger.refusals:
        return _report(ledger, {})
    from gradexplain.receipts.consistency import own_claims

    own_claims(ledger, tree)
    if not ledger.refusals:  # what contradicts itself is refused before anything is run
        _ask(ledger, tree, trust=trust)
    return _report(ledger, tree)


def _ask(ledger: Ledger, tree: Mapping[str, Any], *, trust: bool) -> None:
    from gradexplain.receipts.asking import Stopped, ask_again, foreign_code
    from gradexplain.receipts.comparison import compare

    target = foreign_code(tree)
    if target is not None and not trust:
        raise InputError("receipt_untrusted", target=shown(target, 200))
    try:
        answer = ask_again(tree)
    except Stopped as stop:
        (ledger.refusals if stop.refused else ledger.undecided).append(stop.remark)
        return
    compare(ledger, tree, answer.record, timeless=answer.timeless)


def _report(ledger: Ledger, tree: Mapping[str, Any]) -> ReceiptReport:
    return ReceiptReport(
        kind=tree.get("kind"),
        target=tree.get("target"),
        claimed=tree.get("verdict"),
        claims=dict(ledger.claims),
        refusals=tuple(ledger.refusals),
        undecided=tuple(ledger.undecided),
        notes=tuple(ledger.notes),
    )
