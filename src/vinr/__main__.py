"""Run the command line as ``python -m vinr``."""

from __future__ import annotations

from vinr.cli.app import program

if __name__ == "__main__":
    program()
