"""starkiln: build your own StarCoder from your own code."""

__version__ = "0.1.0"
