"""How examples for the tagger are made."""

from typing import Self

from pydantic import model_validator

from starkiln.core.settings import File, Settings, key


class SynthesisSettings(Settings):
    """How examples for the tagger are made; lengths in code points."""

    windows: int = key(2, "windows of a document, at most", ge=1, le=64)
    shortest: int = key(600, "length of a window, at least", ge=100, le=100_000)
    longest: int = key(
        2000, "length of a window before lines are put in, at most", ge=100, le=10**5
    )
    most: int = key(6, "lines put into a window, at most", ge=0, le=100)
    negatives: float = key(0.5, "share of those lines that hold no entity", ge=0, le=1)
    files: float = key(0.1, "share of windows made whole, as a file of settings", ge=0, le=1)
    swap: float = key(0.75, "share of found values that made ones replace", ge=0, le=1)
    sure: float = key(0.8, "confidence from which a finding is a label", ge=0, le=1)
    doubt: float = key(0.3, "confidence from which it bears no loss; below, none", ge=0, le=1)
    validation: float = key(0.05, "share of repositories for validation", ge=0, lt=0.5)
    test: float = key(0.05, "share of repositories for testing", ge=0, le=0.5)
    formats: File | None = key(
        None, "formats of yours beside ours: a file as synthesis/formats.toml"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.longest < self.shortest:
            raise ValueError(f"longest {self.longest} is below shortest {self.shortest}")
        return self
