"""vionet: a network card and a switch for the guests of a machine."""

__version__ = "0.1.0"
