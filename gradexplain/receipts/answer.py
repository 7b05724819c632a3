"""What became of a receipt: it is read, held against itself, then against what its target gives again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradexplain.receipts.format import misfits
from gradexplain.receipts.ledger import Ledger, ReceiptReport
from gradexplain.receipts.reading import flaws, text_of, tree_of

__all__ = ["ReceiptReport", "check_receipt"]


def check_receipt(receipt: str | Path) -> ReceiptReport:
    """Derives every claim of a receipt again; `receipt` is a file, or its text.

    The target that the receipt names is loaded and run, and only that: a program target runs its own code.
    Raises `InputError` where the file cannot be read, is not JSON, or where the target cannot be loaded here.

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
        from gradexplain.receipts.checking import derived_claims

        derived_claims(ledger, tree)
    return _report(ledger, tree)


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
