"""`python -m mbt_lightning` is the program `mbt`."""

import sys

from mbt_lightning import process


def main() -> None:
    """Run the program; `mbt doctor` without what it examines, which may not import here."""
    if sys.argv[1:2] == ["doctor"]:
        from mbt_lightning.lab import doctor

        doctor.main(sys.argv[2:])
    else:
        if sys.argv[1:2] and sys.argv[1] in process.RUNS:
            process.SIGNALS.listen()  # before the seconds that the imports take
        from mbt_lightning import cli

        cli.main()


if __name__ == "__main__":
    main()
