"""Code as HTML: coloured by pygments, split where one voice ends and the next begins."""

from collections.abc import Sequence

from markupsafe import Markup, escape
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.lexers.special import TextLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType
from pygments.util import ClassNotFound

CLASSES = (
    (Comment, "c"),
    (String, "s"),
    (Number, "m"),
    (Operator.Word, "k"),
    (Keyword, "k"),
    (Name.Function, "f"),
    (Name.Class, "f"),
    (Name.Builtin, "b"),
    (Name.Decorator, "b"),
    (Name.Exception, "b"),
)  # the first that holds a token gives its CSS class


def voices(parts: Sequence[tuple[str, str]], language: str = "python") -> Markup:
    """``parts`` are (CSS class, text); the whole is lexed as one, so colours carry over.

    Every character of the texts is escaped; only ``span`` elements are added.
    """
    tokens = _lexer(language).get_tokens_unprocessed("".join(text for _, text in parts))
    spans = [(start, start + len(value), _class(kind)) for start, kind, value in tokens]
    html, begin = Markup(""), 0
    for voice, text in parts:
        end = begin + len(text)
        inside = [(max(a, begin), min(b, end), c) for a, b, c in spans if a < end and b > begin]
        code = Markup("").join(_span(text[a - begin : b - begin], c) for a, b, c in inside)
        html += Markup('<span class="{}">{}</span>').format(voice, code)
        begin = end
    return html


def _class(kind: _TokenType) -> str:
    return next((name for holder, name in CLASSES if kind in holder), "")


def _span(text: str, name: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(name, text) if name else escape(text)


def _lexer(language: str) -> Lexer:
    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return TextLexer()
