"""The demo's configuration with as many steps as this machine makes in a few minutes.

    python launch/demo/config.py --config configs/demo.json --output demo/config.json

Times some steps of random tokens, the teacher's pass included. A machine that is fast enough makes all steps of the
configuration; a slower one makes fewer, and is told so. A file that is there is kept, so that a demo that was stopped
goes on with the steps it was begun with.
"""

import argparse
import sys
from pathlib import Path

import torch

from launch.command_line.terminal import accept_any_terminal
from launch.distillation.config import RunConfig, read_run_config
from launch.job.messages import mute_transformers
from launch.planning.measurement import time_step
from pretrain.device import check_accelerator, chosen_device, device_name, explain_native
from pretrain.durable import write_durably

DEMO_SECONDS = 540  # ten minutes less what a step's time may be wrong by; installing is not in it
REST_SECONDS, REST_STEPS = 60, 45  # corpus, start, scores and report: measured where a step takes 0.9 and 7.2 s
LEAST_STEPS = 30  # after which the student still beats its untrained twin clearly (README)


def choose_steps(step_seconds: float, total_steps: int) -> int:
    """As many steps as fit, at least those that show something, at most those of the configuration.

    What the demo does besides takes longer on a slow machine too: as long as REST_SECONDS and REST_STEPS steps.
    """
    training_seconds = DEMO_SECONDS - REST_SECONDS - REST_STEPS * step_seconds
    return min(total_steps, max(LEAST_STEPS, int(training_seconds / step_seconds)))


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same run of other length: two checkpoints, scores at the start, twice on the way and at the end."""
    training = config.training.model_copy(
        update={"total_steps": steps, "save_every_steps": -(-steps // 2), "log_every_steps": max(1, steps // 20)}
    )
    probe = config.probe and config.probe.model_copy(update={"every_steps": -(-steps // 3)})
    return config.model_copy(update={"training": training, "probe": probe})


def explain(step_seconds: float, steps: int, total_steps: int, device: torch.device) -> str:
    """What was chosen and why, for people."""
    machine = f"{device_name(device)}{explain_native(device)}"
    minutes = steps * step_seconds / 60
    chosen = f"{steps} steps in about {minutes:.1f} minutes"
    if steps < total_steps:
        chosen += f", not the {total_steps} of a faster machine"
    return f"demo: {machine} makes a step in {step_seconds:.2f} s: {chosen}"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when the file is there, 2 with one line on stderr otherwise."""
    accept_any_terminal()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.output.is_file():
        print(f"{options.output}: already there")
        return 0
    mute_transformers()
    try:
        check_accelerator()
        config = read_run_config(options.config)
        total_steps, device = config.training.total_steps, chosen_device()
        step_seconds = time_step(config, device).seconds(config.deepspeed.train_batch_size)
        steps = choose_steps(step_seconds, total_steps)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_durably(options.output, with_steps(config, steps).model_dump_json(indent=2))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(explain(step_seconds, steps, total_steps, device), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
