"""`python -m mbt_lightning` is the program `mbt`."""

import sys
from importlib import import_module

WITHOUT_TORCH = {"doctor": "mbt_lightning.lab.doctor", "table": "mbt_lightning.lab.table"}
"""Tools that do not wait for torch: one examines it, the other has no use for it."""


def main() -> None:
    """Run the program; what a person can mend ends it with one line and exit code 2."""
    tool = WITHOUT_TORCH.get("".join(sys.argv[1:2]))
    if tool is None:
        from mbt_lightning import cli

        cli.main()
        return
    from mbt_lightning.errors import UserError, one_line

    try:
        import_module(tool).main(sys.argv[2:])
    except UserError as error:
        print(f"mbt: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
