"""What it costs that idle threads sleep: training steps with and without OMP_WAIT_POLICY=PASSIVE.

Each policy is measured in processes of its own, because OpenMP reads it once, in turns:

    python benchmarks/waiting.py --threads 2 --rounds 5
    python benchmarks/waiting.py --threads 2 --rounds 5 --busy 2    # beside other work
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from lightning_adls.threads import WAIT_POLICY

POLICIES = {"default": None, "passive": "PASSIVE"}


def step_ms(threads: int, steps: int) -> float:
    """Milliseconds of a training step of a BERT of 2 layers, 128 wide, on 32 texts of 128 tokens.

    The median of ``steps`` steps, after three that are not counted.
    """
    import torch

    from lightning_adls.models import bert

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = bert(vocab_size=1000, max_position_embeddings=128)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(1000, (32, 128))
    labels = torch.zeros(32, dtype=torch.int64)
    times = []
    for _ in range(steps + 3):
        begin = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times[3:])


def measured(policy: str | None, arguments: argparse.Namespace) -> float:
    """The step in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != WAIT_POLICY}
    if policy is not None:
        environment[WAIT_POLICY] = policy
    command = [sys.executable, __file__, "--threads", str(arguments.threads)]
    command += ["--steps", str(arguments.steps), "--one"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(result.stdout)


def main() -> None:
    """Print the step under each policy and the ratio of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=30, help="of each process")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each policy")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(step_ms(arguments.threads, arguments.steps))
        return
    times: dict[str, list[float]] = {name: [] for name in POLICIES}
    with ExitStack() as stack:
        for _ in range(arguments.busy):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.kill)
        for _ in range(arguments.rounds):
            for name, policy in POLICIES.items():
                times[name].append(measured(policy, arguments))
    for name, values in times.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:8} {statistics.median(values):8.1f} ms  ({spread})")
    ratios = [p / d for d, p in zip(times["default"], times["passive"], strict=True)]
    print(
        f"passive / default, median of {len(ratios)} rounds: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); {arguments.threads} threads, "
        f"{arguments.busy} busy processes beside"
    )


if __name__ == "__main__":
    main()
