"""What a client is shown of a completion's text as it comes: never what is cut off later."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from starkiln.tokenizer.context import brackets, closes, code_lines, overlaps, trim

_AHEAD = 1 << 16  # characters of a suffix that a completion may come to repeat

Places = dict[int, int]  # lines of the suffix that text ends with: where the first one begins


@dataclass
class Shape:
    """One completion in the making, cut where it repeats ``suffix`` or leaves its block.

    However it comes in pieces, what is shown in all is ``trim`` of the whole. Without suffix and
    ``indent`` it is left as it is; ``prefix`` is what stands before the cursor.
    """

    prefix: str = ""
    suffix: str = ""
    indent: int | None = None
    text: str = ""
    shown: int = 0
    theirs: list[str] = field(default_factory=list)
    again: int = 0  # characters of text from which on it is looked at again

    def __post_init__(self) -> None:
        self.prefix = self.prefix.rpartition("\n")[2]
        self.suffix = self.suffix[:_AHEAD]
        self.theirs = [line for _, line in code_lines(self.suffix)]

    def feed(self, new: str, last: bool) -> tuple[str, bool]:
        """What to show now that ``new`` came, and whether the completion ends here."""
        self.text += new
        safe, ends = len(self.text), last
        if self.indent is not None:
            safe, left = block(self.text, self.indent)
            ends = last or left
            safe = len(self.text) if last and not left else safe
        if self.theirs:
            text = self.text[:safe]
            safe = len(trim(text, self.suffix, self.prefix)) if ends else self._sure(text)
        shown, self.shown = self.shown, max(self.shown, safe)
        return self.text[shown : self.shown], ends

    def _sure(self, text: str) -> int:
        """How much of ``text`` is left by ``trim`` whatever follows.

        To say less is right too: what is held back is looked at again as it has grown by a share.
        """
        if len(text) < self.again:
            return self.shown
        below = not self.suffix.partition("\n")[0].strip()  # blank lines go with what is cut
        sure = len(text.rstrip()) if below else len(text)
        stripped = self.suffix.strip()
        counts = len(stripped) > 1 or stripped.isalnum()
        ends = list(overlaps(text, self.suffix, self.shown)) if counts else []
        line = self._first_line(text, ends)
        if line is not None:
            sure = min(sure, len(text[:line].rstrip()) if below else line)
        sure = min(sure, *ends[:1]) if ends else sure
        self.again = len(text) + (len(text) - sure) // 32
        return sure

    def _first_line(self, text: str, ends: Sequence[int]) -> int | None:
        """Where lines begin that may come to be cut; what is shown is of none of them.

        What is yet to come ends them, or a repetition that begins at one of ``ends``.
        """
        opening, start = ("", 0) if self.shown else (self.prefix, 0)
        if self.shown or opening.strip():
            opening, start = "", text.find("\n", max(0, self.shown - 1)) + 1
            if not start:
                return None
        pairs = cache(lambda: brackets(text))
        places: Places = {}
        found = []
        while start >= 0:
            after = text.find("\n", start)
            line = opening + text[start : after if after >= 0 else None]
            for at in ends:
                if start <= at <= (after if after >= 0 else len(text)):
                    own = opening + text[start:at]
                    found.append(self._next(places, own, start, pairs).get(0))
            places = self._next(places, line, start, pairs, unfinished=after < 0)
            start, opening = after + 1 or -1, ""
        return min((at for at in [*found, *places.values()] if at is not None), default=None)

    def _next(
        self,
        places: Places,
        line: str,
        at: int,
        pairs: Callable[[], Sequence[tuple[int, int]]],
        unfinished: bool = False,
    ) -> Places:
        """``places`` after one more line, which begins at ``at``.

        At 0 lines a repetition has ended, in full or within its last line, and one may follow.
        """
        own = line.rstrip()
        if not own and not (unfinished and line):
            return places
        if self.theirs[0].startswith(own or line) and not closes(pairs(), at):
            places = {0: at, **places}
        if not own:
            return places
        found: Places = {}
        for count, first in places.items():
            theirs = self.theirs[count] if count < len(self.theirs) else ""
            if own == theirs:
                found[count + 1] = first
            if own == theirs or ((count or unfinished) and theirs.startswith(own)):
                found[0] = min(first, found.get(0, first))
        return found


def block(text: str, indent: int) -> tuple[int, bool]:
    """How much of ``text`` surely is of the block, and whether the block ends there.

    A block ends before the first line, but for the cursor's own, that is not blank and indented
    by fewer than ``indent`` characters.
    """
    at = text.find("\n")
    while at >= 0:
        after = text.find("\n", at + 1)
        line = text[at + 1 : after if after >= 0 else len(text)]
        code = line.lstrip()
        if code and len(line) - len(code) < indent:
            return at, True
        if not code and after < 0:
            return at, False  # what follows the white space is not known
        at = after
    return len(text), False
