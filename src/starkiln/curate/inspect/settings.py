"""Settings of ``starkiln inspect``."""

from starkiln.core.settings import Settings, key


class InspectSettings(Settings):
    """How many files are drawn, and where the page is (paper §3.1; rules §3)."""

    files: int = key(1000, "files drawn from each stratum, to count on", "§3.1; rules §3", gt=0)
    read: int = key(100, "of them, how many are to be read by eye", "§3.1; rules §3", gt=0)
    seed: int = key(0, "root of the draws")
    port: int = key(0, "port of the page on this machine; 0 takes a free one", ge=0, le=65535)
