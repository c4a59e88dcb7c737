"""What it costs that idle threads sleep: training steps by how OpenMP's threads wait.

Each way is measured in processes of its own, because OpenMP reads it once, in turns:

    python benchmarks/waiting.py --threads 2 --rounds 5
    python benchmarks/waiting.py --threads 2 --rounds 5 --busy 2     # beside other work
    python benchmarks/waiting.py --threads 2 --spins 1000 10000      # look so often, then sleep

Other work begins when the measured process has taken its first steps: a way that was chosen by
what the machine did when the process began is judged by what comes after.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from lightning_adls.threads import SPIN_COUNT, SPINS, WAIT_POLICY

WARM = 3  # steps that are not counted


def take_steps(threads: int, steps: int) -> None:
    """Train a BERT of 2 layers, 128 wide, on 32 texts of 128 tokens.

    Prints "warm" after ``WARM`` steps and, when a line comes in, the milliseconds of ``steps``.
    """
    import torch

    from lightning_adls.models import bert

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = bert(vocab_size=1000, max_position_embeddings=128)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(1000, (32, 128))
    labels = torch.zeros(32, dtype=torch.int64)

    def step_ms() -> float:
        begin = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return 1e3 * (time.perf_counter() - begin)

    for _ in range(WARM):
        step_ms()
    print("warm", flush=True)
    sys.stdin.readline()
    print(statistics.median(step_ms() for _ in range(steps)))


def measured(variables: dict[str, str], arguments: argparse.Namespace) -> float:
    """The median step of a process of its own, in ms, beside other work from its fourth step on."""
    environment = {k: v for k, v in os.environ.items() if k not in (WAIT_POLICY, SPIN_COUNT)}
    command = [sys.executable, __file__, "--threads", str(arguments.threads)]
    command += ["--steps", str(arguments.steps), "--one"]
    pipe = subprocess.PIPE
    with (
        ExitStack() as stack,
        subprocess.Popen(
            command, env=environment | variables, stdin=pipe, stdout=pipe, text=True
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(arguments.busy):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        output, _ = process.communicate("\n")
        if process.returncode:
            sys.exit(process.returncode)
    return float(output)


def main() -> None:
    """Print the step of each way of waiting, and its ratio to the default in the same round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=30, help="of each process")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument(
        "--spins", type=int, nargs="+", default=[SPINS], help=f"values of {SPIN_COUNT}"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        take_steps(arguments.threads, arguments.steps)
        return
    ways: dict[str, dict[str, str]] = {"default": {}, "passive": {WAIT_POLICY: "PASSIVE"}}
    ways |= {
        f"{count} spins": {WAIT_POLICY: "PASSIVE", SPIN_COUNT: str(count)}
        for count in arguments.spins
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, variables in ways.items():
            times[name].append(measured(variables, arguments))
    print(
        f"{arguments.threads} threads, {arguments.busy} busy processes beside; medians of "
        f"{arguments.rounds} rounds (lowest to highest)"
    )
    for name, values in times.items():
        ratios = [value / default for value, default in zip(values, times["default"], strict=True)]
        print(f"{name:13} {spread(values, 1)} ms   {spread(ratios, 3)} of the default")


def spread(values: list[float], digits: int) -> str:
    """Median, lowest and highest."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.median(values):8.{digits}f} ({low} to {high})"


if __name__ == "__main__":
    main()
