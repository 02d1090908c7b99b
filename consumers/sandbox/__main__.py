"""`python -m consumers.sandbox`."""

from consumers.sandbox.server import main

main()
