"""`python -m iommud`."""

from .commands.cli import main

main()
