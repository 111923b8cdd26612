"""`python -m vionet` is `vionet`."""

from vionet.cli import main

main()
