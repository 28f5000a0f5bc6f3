"""`python -m mbt_lightning` is the program `mbt`."""

import os
import sys
from importlib import import_module

from mbt_lightning import process

WITHOUT_TORCH = {
    "doctor": "mbt_lightning.lab.doctor",
    "sweep": "mbt_lightning.lab.sweep",
    "table": "mbt_lightning.lab.table",
}
"""Tools that start without torch: one examines it, the others need seconds less."""


def main() -> None:
    """Run the program; what a person can mend ends it with one line and exit code 2."""
    if sys.argv[1:2] and sys.argv[1] in WITHOUT_TORCH:
        from mbt_lightning.errors import UserError, one_line

        try:
            import_module(WITHOUT_TORCH[sys.argv[1]]).main(sys.argv[2:])
        except UserError as error:
            if os.environ.get("MBT_DEBUG"):
                raise
            print(f"mbt: error: {one_line(error)}", file=sys.stderr)
            sys.exit(2)
    else:
        if sys.argv[1:2] and sys.argv[1] in process.RUNS:
            process.SIGNALS.listen()  # before the seconds that the imports take
        from mbt_lightning import cli

        cli.main()


if __name__ == "__main__":
    main()
