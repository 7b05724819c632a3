"""Verifying, measured beside torch's gradcheck: what is called wrong that is right, what is missed, and what it costs.

.venv/bin/python scripts/bench.py verify                     # all of it, about a quarter of an hour on two cores
.venv/bin/python scripts/bench.py verify --part operators    # one part
.venv/bin/python scripts/bench.py verify --quick             # a small sample of each part
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import bench_bounds
import bench_cost
import bench_operators
import bench_place
from checkers import prepare
from sheets import Sheet, show

# Each takes whether to be quick, and how many processes to use.
PARTS: Mapping[str, Callable[[bool, int], Iterator[Sheet]]] = {
    "operators": bench_operators.part,
    "cost": bench_cost.part,
    "needle": bench_cost.needle,
    "large": bench_cost.large,
    "bounds": bench_bounds.part,
    "place": bench_place.part,
}


def add_to(commands: Any) -> None:
    """Adds the subcommand `verify`."""
    command = commands.add_parser("verify", help="verifying, beside gradcheck")
    command.add_argument("--part", choices=PARTS, action="append", help="only this part; all of them without")
    command.add_argument("--quick", action="store_true", help="a small sample of each part")
    command.add_argument("--workers", type=int, default=2, help="processes for the operators")
    command.add_argument("--markdown", action="store_true", help="tables in Markdown")
    command.set_defaults(run=bench_verify)


def bench_verify(arguments: argparse.Namespace) -> None:
    """Prints the tables of the parts asked for."""
    prepare()
    parts: Sequence[str] = arguments.part or list(PARTS)
    tables = chain.from_iterable(PARTS[part](arguments.quick, arguments.workers) for part in parts)
    show(tables, markdown=arguments.markdown)
