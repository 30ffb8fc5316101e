"""RELAX's published CartPole protocol, with an unbiased sampler, next to the score function with a value baseline.

    python -m examples.relax_cartpole      # what is missing (all: 15 minutes of one core), then table and figure
    python -m examples.relax_cartpole --seeds 3 --candidates 2 --out runs/relax.json    # a quick look

Both gradients are tuned on the same candidates and tuning seeds, and measured on the seeds 0, 1, ... What the file of
results holds already is not run again.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from agents.command_line import run_command
from agents.machine import machine
from examples.relax_cartpole.protocol import measure, write
from examples.relax_cartpole.report import difference, figure, save, summary, tables

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "relax_cartpole.json"
FIGURE = ROOT / "docs" / "assets" / "relax-cartpole.svg"


def main() -> None:
    """Measure, and show what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.relax_cartpole",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=30, help="evaluation seeds of each gradient (30)")
    parser.add_argument("--candidates", type=int, default=16, help="settings tried of each gradient (16)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the results, to write and to go on with")
    parser.add_argument("--figure", type=Path, help="SVG or PNG (in docs/assets, or beside --out if that is given)")
    args = parser.parse_args()
    if args.seeds < 2 or args.candidates < 1 or args.jobs < 1:
        parser.error("--seeds must be at least 2, --candidates and --jobs at least 1")
    picture = args.figure or (FIGURE if args.out == RESULT else args.out.with_suffix(".svg"))
    if picture.suffix not in (".svg", ".png"):
        parser.error(f"--figure must end in .svg or .png, got {picture}")
    results = measure(args.out, seeds=args.seeds, count=args.candidates, jobs=args.jobs)
    results["summary"] = summary(results["runs"], results["variance"])
    names = ("gumbel-rl", "gymnasium", "torch")
    results |= {"versions": {name: version(name) for name in names}, "machine": machine()}
    write(results, args.out)
    save(figure(results["runs"]), picture)
    console = Console()
    for table in tables(results):
        console.print(table)
    console.print(difference(results))
    console.print(f"written to {args.out} and {picture}")


if __name__ == "__main__":
    run_command(main)
