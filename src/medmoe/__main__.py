"""`python -m medmoe`: the command line without its script."""

from medmoe.cli import main

main()
