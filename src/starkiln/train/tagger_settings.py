"""Settings of the tagger's fine-tuning, beside those of any training."""

from typing import Self

from pydantic import model_validator

from starkiln.code.spans import LABELS
from starkiln.core.settings import Settings, key


class TaggerSettings(Settings):
    """What a tagger tells apart; ``train.sequence_length`` is its window (rules §9: 512)."""

    labels: list[str] = key(list(LABELS), "classes to tag; others count as outside", "rules §9")
    overlap: float = key(
        0.25, "share of a window's tokens that it has in common with the next", ge=0, le=0.5
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        wrong = [name for name in self.labels if name not in LABELS]
        if wrong or not self.labels or len(set(self.labels)) < len(self.labels):
            what = (
                f"'{wrong[0]}' is no class" if wrong else "name each class once, and one at least"
            )
            raise ValueError(f"labels: {what}; there are {', '.join(LABELS)}")
        return self
