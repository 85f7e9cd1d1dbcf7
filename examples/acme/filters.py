"""Acme's own filters. Change ``version`` whenever a filter's result changes."""

from starkiln.core.stage import document_filter


@document_filter(version=1)
def no_generated(text: str, *, phrases: list[str], first_lines: int = 5) -> str | None:
    """Drop files that say in their first lines that a machine wrote them."""
    head = "\n".join(text.split("\n", first_lines)[:first_lines]).lower()
    return "generated" if any(phrase.lower() in head for phrase in phrases) else None
