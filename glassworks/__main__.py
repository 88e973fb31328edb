"""`python -m glassworks` is the command line."""

from glassworks.cli import main

main()
