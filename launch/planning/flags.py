"""The flags of `gd.py --plan`."""

import argparse
from pathlib import Path
from typing import Any

_OF_A_PLAN = ("gpus", "tflops", "gbit", "price", "law")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Add them to the job's flags."""
    group = parser.add_argument_group("plan", "what a run will cost and be worth; nothing is trained or written")
    group.add_argument("--plan", action="store_true", help="print the plan of the configuration, and leave")
    group.add_argument("--gpus", type=_positive(int), nargs="+", help="numbers of ranks to plan for (1)")
    group.add_argument("--tflops", type=_positive(float), help="that large products reach on a GPU; "
                       "without it a step is timed on this machine")  # fmt: skip
    group.add_argument("--gbit", type=_positive(float), help="of a network card, one a GPU (400)")
    group.add_argument("--price", type=_positive(float), metavar="PER_HOUR", help="of a rank's hour")
    group.add_argument("--law", type=Path, metavar="FILE", help="a law by bench/law/fit.py (those of configs/laws)")


def plan_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that were given, as keyword arguments of PlanOptions.

    Raise ValueError if there are any without --plan.
    """
    given = {name: value for name in _OF_A_PLAN if (value := getattr(arguments, name)) is not None}
    if given and not arguments.plan:
        raise ValueError(f"{', '.join(f'--{name}' for name in given)}: belongs to --plan, which is not given")
    return given


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be greater than 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # of argparse's message for a text that is no number
    return parse
