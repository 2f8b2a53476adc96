"""`python -m iommud`."""

from .cli import main

main()
