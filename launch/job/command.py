"""A command that a signal stops and that goes on when it is given again, with the exit codes of every command."""

import argparse
import sys
from collections.abc import Callable

from launch.command_line.next_command import next_line
from launch.command_line.terminal import accept_any_terminal
from launch.job.messages import mute_transformers
from launch.job.rank import REFUSED, STOPPED
from pretrain.progress import say
from pretrain.ranks.stopping import Stopped, StopRequest


def run_stoppable(
    parse: Callable[[], argparse.Namespace], run: Callable[[argparse.Namespace, StopRequest], None]
) -> int:
    """Run a command of one process; return the exit code.

    Args:
        parse: decodes the command line.
        run: does the work. Raises ValueError for what cannot be used, and Stopped if the request is made.
    """
    accept_any_terminal()
    options = parse()
    stop = StopRequest(0, say)
    mute_transformers()
    try:
        run(options, stop)
    except ValueError as error:
        say(f"error: {error}")
        return REFUSED
    except Stopped as stopped:
        say(f"stopped: {stopped}")
        say(next_line("python", *sys.argv))
        return STOPPED
    return 0
