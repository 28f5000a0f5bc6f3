"""`python -m mbt_lightning` is the program `mbt`."""

import sys

from mbt_lightning.cli import main as program
from mbt_lightning.process import RUNS, SIGNALS
from mbt_lightning.training.wandb_exit import recorded


def main() -> None:
    """Run the program; a run listens to signals from here on, and its W&B run ends with it."""
    words = sys.argv[1:]
    if words and words[0] in RUNS:
        SIGNALS.listen()  # before the seconds that the imports take
        with recorded(words):
            program.main(words)
    else:
        program.main(words)


if __name__ == "__main__":
    main()
