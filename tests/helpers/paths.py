"""Where things are in a checkout."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
EXPERIMENTS = PROJECT / "experiments"
GOLDENS = PROJECT / "tests" / "goldens"
