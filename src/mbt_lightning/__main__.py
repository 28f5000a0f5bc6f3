"""`python -m mbt_lightning` is the program `mbt`."""

import sys


def main() -> None:
    """Run the program; `mbt doctor` without what it examines, which may not import here."""
    if sys.argv[1:2] == ["doctor"]:
        from mbt_lightning.lab import doctor

        doctor.main(sys.argv[2:])
    else:
        from mbt_lightning.wandb_end import recorded

        with recorded(sys.argv[1:]):
            from mbt_lightning import cli

            cli.main()


if __name__ == "__main__":
    main()
