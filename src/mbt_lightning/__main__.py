"""`python -m mbt_lightning` is the program `mbt`."""

from mbt_lightning.cli import main

main()
