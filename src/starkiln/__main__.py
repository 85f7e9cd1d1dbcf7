"""``python -m starkiln``."""

from starkiln.cli import main

main()
