"""`python -m services.cli`: the same as `farside`."""

from services.cli import main

main()
