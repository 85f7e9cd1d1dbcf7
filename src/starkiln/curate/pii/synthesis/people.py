"""Given and family names of many countries, from the lists of the ``faker`` library."""

import importlib
import re
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

from starkiln.core.errors import UserError
from starkiln.curate.pii.synthesis.draws import Draws

LATIN = (  # locales whose lists are long enough, in Latin script
    "en_US", "en_GB", "en_IE", "en_NZ", "en_IN", "de_DE", "de_AT", "fr_FR", "fr_CH", "es_ES",
    "es_MX", "it_IT", "pt_BR", "pt_PT", "nl_NL", "cs_CZ", "sk_SK", "hr_HR", "sl_SI", "sv_SE",
    "no_NO", "da_DK", "fi_FI", "et_EE", "lv_LV", "lt_LT", "hu_HU", "ro_RO", "tr_TR", "id_ID",
    "tw_GH", "yo_NG", "zu_ZA",
)  # fmt: skip
NATIVE = {  # locale -> what stands between family and given name; None: given name first
    "ja_JP": "", "zh_CN": "", "zh_TW": "", "ko_KR": "", "ru_RU": None, "uk_UA": None,
    "bg_BG": None, "el_GR": None, "he_IL": None, "hi_IN": None, "fa_IR": None, "th_TH": None,
}  # fmt: skip
_ROMANISED = ("ja_JP", "zh_CN", "zh_TW")  # these have lists in Latin script as well
_GIVEN = ("first_names", "first_names_male", "first_names_female")
_FAMILY = ("last_names", "last_names_male", "last_names_female")
_NAME = re.compile(r"[^\d_()/,.;]+")
_FOLDS = str.maketrans(
    {"ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "đ": "d", "ı": "i", "œ": "oe", "ð": "d", "þ": "th"}
)


class Person(NamedTuple):
    """A made person: a given name, a second one and a family name, in Latin script."""

    given: str
    second: str
    family: str


def person(draws: Draws) -> Person:
    """A person of one country; given names and family names are combined freely."""
    given, family = draws.pick(_latin())
    return Person(draws.pick(given), draws.pick(given), draws.pick(family))


def native(draws: Draws) -> str:
    """A whole name in another script than the Latin, in the order of its country."""
    between, given, family = draws.pick(_native())
    first, last = draws.pick(given), draws.pick(family)
    return f"{first} {last}" if between is None else f"{last}{between}{first}"


@lru_cache(maxsize=1 << 15)
def slug(name: str) -> str:
    """``name`` as mailboxes spell it: small letters a-z alone."""
    plain = unicodedata.normalize("NFKD", name.lower().translate(_FOLDS))
    return re.sub(r"[^a-z]", "", plain)


@lru_cache(maxsize=1)
def _latin() -> list[tuple[list[str], list[str]]]:
    plain = [(_names(locale, _GIVEN), _names(locale, _FAMILY)) for locale in LATIN]
    roman = [
        (_names(one, ("first_romanized_names",)), _names(one, ("last_romanized_names",)))
        for one in _ROMANISED
    ]
    return plain + roman


@lru_cache(maxsize=1)
def _native() -> list[tuple[str | None, list[str], list[str]]]:
    return [
        (between, _names(locale, _GIVEN), _names(locale, _FAMILY))
        for locale, between in NATIVE.items()
    ]


def _names(locale: str, kinds: tuple[str, ...]) -> list[str]:
    lists = provider(f"person.{locale}")
    names = (name for kind in kinds for name in getattr(lists, kind, ()))
    return [name for name in dict.fromkeys(names) if _NAME.fullmatch(name) and len(name) < 25]


@lru_cache(maxsize=64)
def provider(name: str) -> Any:
    """The class of word lists ``name`` of ``faker``; UserError where that is not installed."""
    try:
        return importlib.import_module(f"faker.providers.{name}").Provider
    except ModuleNotFoundError as error:
        raise UserError("faker", "is not installed", "pip install 'starkiln[pii]'") from error
