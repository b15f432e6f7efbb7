"""Parser and dispatch. Each command's module is imported only when it runs: info needs nothing but numpy and torch."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

import fastseg
from fastseg.cli.errors import CommandError
from fastseg.cli.options import COMMANDS

_INTERRUPTED = 130  # what a shell reports for SIGINT


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastseg", description="Fused kernels for medical segmentation and stereo reconstruction.")
    parser.add_argument("--version", action="version", version=f"fastseg {fastseg.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, (summary, add_arguments) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for input that cannot be worked with, 130 when interrupted."""
    options = _parser().parse_args(argv)
    command = importlib.import_module(f"fastseg.cli.{options.command}")
    try:
        code: int = command.run(options)
        return code
    except CommandError as error:
        print(f"fastseg {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fastseg {options.command}: interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
