"""`python -m mbt_lightning` is the program `mbt`."""

import os
import signal
import sys
from importlib import import_module

from mbt_lightning import process
from mbt_lightning.errors import UserError, exit_with_error, one_line
from mbt_lightning.training.wandb_exit import recorded

WITHOUT_TORCH = {
    "doctor": "mbt_lightning.cli.doctor",
    "sweep": "mbt_lightning.cli.sweep",
    "table": "mbt_lightning.cli.table",
}
"""Tools that start without torch: one examines it, the others need seconds less."""


def main() -> None:
    """Run the program; what a person can mend ends it with one line and exit code 2."""
    words = sys.argv[1:]
    if words and words[0] in WITHOUT_TORCH:
        try:
            import_module(WITHOUT_TORCH[words[0]]).main(words[1:])
        except UserError as error:
            if os.environ.get("MBT_DEBUG"):
                raise
            exit_with_error(one_line(error))
        except KeyboardInterrupt:
            print("mbt: interrupted; the same command goes on", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
    else:
        process.die_with_parent()
        if words and words[0] in process.RUNS:
            process.SIGNALS.listen()  # before the seconds that the imports take
        with recorded(words):
            from mbt_lightning.cli import fit as cli

            cli.main()


if __name__ == "__main__":
    main()
