"""The demo on servers that are there already: `python -m tests.e2e.on_real_parts --exit --keep DIR`, addresses on stdin.

Standard input is a JSON object: kafka (settings), store_url and case_store_url. Not a command of `tocsin`: it would write a
made-up shop into whatever database it is given.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from consumers.demo.commands import demo
from consumers.demo.run import Options, run_demo
from consumers.demo.surroundings import StartPart, Surroundings


def main() -> None:
    """Run the demo with its own options; leave with its exit code."""
    given = Surroundings(**json.load(sys.stdin))

    def bring_up(_folder: Path, _start: StartPart) -> Surroundings:
        return given

    def run(**options: Any) -> None:
        # what Prometheus sees is the same on all parts: `test_demo.py`
        sys.exit(run_demo(Options(**options, watched=False), bring_up))

    click.Command("demo", params=demo.params, callback=run)(standalone_mode=False)


if __name__ == "__main__":
    main()
