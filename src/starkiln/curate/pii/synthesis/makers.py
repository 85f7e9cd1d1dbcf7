"""Elements of patterns that are no plain draw from an alphabet: checksums, addresses, names…

``MAKERS[name](argument)`` gives the element: a function of the scene and of the value so far.
It raises ValueError for an argument that it does not take.
"""

import base64
import json
import re
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from starkiln.curate.pii.synthesis import people
from starkiln.curate.pii.synthesis.draws import Draws

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


@dataclass
class Scene:
    """What a value is drawn in: the draws, the person spoken of, how lines begin and join."""

    draws: Draws
    person: people.Person
    joint: str = "\n"  # between the lines of a long value
    wrap: str = " "  # between the words of a name that is broken over lines
    camel: bool = False  # how names are spelt where both ways are usual
    prose: list[str] = field(default_factory=list)  # runs of words of the document
    idents: list[str] = field(default_factory=list)  # names of its code
    seen: dict[str, str] = field(default_factory=dict)  # slot -> a value of it, to come again


Element = Callable[[Scene, str], str]


def crc32(argument: str) -> Element:
    """The CRC-32 of what follows the value's last ``_``, in six characters of base 62."""
    _empty(argument)

    def make(scene: Scene, so_far: str) -> str:
        number, digits = zlib.crc32(so_far.rpartition("_")[2].encode()), ""
        for _ in range(6):
            number, digit = divmod(number, 62)
            digits = BASE62[digit] + digits
        return digits

    return make


def encoded(argument: str) -> Element:
    """So many random bytes, as ``b64:32``, in base 64 with its padding."""
    low, high = _range(argument)
    return lambda scene, _: base64.b64encode(
        scene.draws.bytes(scene.draws.between(low, high))
    ).decode()


def uuid(argument: str) -> Element:
    """A random UUID (version 4)."""
    _empty(argument)

    def make(scene: Scene, _: str) -> str:
        return str(UUID(bytes=scene.draws.bytes(16), version=4))

    return make


def jwt(argument: str) -> Element:
    """A JSON web token that decodes, with a random signature."""
    _empty(argument)

    def make(scene: Scene, _: str) -> str:
        d = scene.draws
        head = {"alg": d.pick(("HS256", "HS512", "RS256", "ES256")), "typ": "JWT"}
        body: dict[str, object] = {"sub": d.string(string.digits, d.between(3, 10))}
        if d.chance(0.5):
            body["name"] = f"{scene.person.given} {scene.person.family}"
        if d.chance(0.6):
            body["iat"] = d.between(1_400_000_000, 1_800_000_000)
        size = {"HS256": 32, "ES256": 64, "HS512": 64, "RS256": 256}[str(head["alg"])]
        texts = (json.dumps(part, separators=(",", ":")).encode() for part in (head, body))
        parts = (*texts, d.bytes(size))
        return ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts)

    return make


def basic(argument: str) -> Element:
    """A mailbox name and a password in base 64, as HTTP's basic authentication sends them."""
    _empty(argument)

    def make(scene: Scene, _: str) -> str:
        pair = f"{people.slug(scene.person.given)}:{scene.draws.string(BASE62, 12)}"
        return base64.b64encode(pair.encode()).decode()

    return make


def block(argument: str) -> Element:
    """So many characters of base 64 in lines of 64, joined as the scene says."""
    low, high = _range(argument)

    def make(scene: Scene, so_far: str) -> str:
        size = scene.draws.between(low, high) // 4 * 3
        body = so_far + base64.b64encode(scene.draws.bytes(size)).decode()
        lines = (body[i : i + 64] for i in range(0, len(body), 64))
        return scene.joint.join(lines)[len(so_far) :]

    return make


_SPECIAL = {0, 10, 127, 169, 172, 192, 198, 203, 100}
_V4 = ("public", "private", "documentation", "multicast", "resolver")


def ipv4(argument: str) -> Element:
    """An IPv4 address of a class: public, private, documentation, multicast, resolver."""
    if argument not in _V4:
        raise ValueError(f"one of {', '.join(_V4)}")

    def make(scene: Scene, _: str) -> str:
        d = scene.draws
        last = f"{d.below(256)}.{d.between(1, 254)}"
        if argument == "private":
            heads = f"10.{d.below(256)}", f"172.{d.between(16, 31)}", "192.168", "10.0"
            return f"{d.pick(heads)}.{d.pick((last, f'{d.below(4)}.{d.between(1, 254)}'))}"
        if argument == "documentation":
            return f"{d.pick(('192.0.2', '198.51.100', '203.0.113'))}.{d.between(1, 254)}"
        if argument == "multicast":
            return f"{d.between(224, 239)}.{d.below(256)}.{last}"
        if argument == "resolver":
            return d.pick(("8.8.8.8", "8.8.4.4", "1.1.1.1", "9.9.9.9", "208.67.222.222"))
        first = d.between(1, 223)
        return f"{first + 1 if first in _SPECIAL else first}.{d.below(256)}.{last}"

    return make


_V6 = {"public": "2001:4860 2a00:1450 2600:1f18 2a01:4f8 2606:4700 2400:cb00 2803:f800 2c0f:f248",
       "private": "fd00 fd12:3456 fdab:cd01", "documentation": "2001:db8", "link": "fe80",
       "multicast": "ff02 ff05", "mapped": "::ffff"}  # fmt: skip


def ipv6(argument: str) -> Element:
    """An IPv6 address of a class (see ``_V6``), compressed, whole, or in capitals."""
    if argument not in _V6:
        raise ValueError(f"one of {', '.join(_V6)}")
    heads = _V6[argument].split()
    public = ipv4("public")

    def make(scene: Scene, so_far: str) -> str:
        d = scene.draws
        if argument == "mapped":
            return f"::ffff:{public(scene, so_far)}"
        groups = d.pick(heads).split(":")
        tail = [f"{d.below(1 << d.pick((4, 8, 16, 16))):x}" for _ in range(d.between(1, 5))]
        groups += ["0"] * (8 - len(groups) - len(tail)) + tail
        address = IPv6Address(":".join(groups))
        text = address.exploded if d.chance(0.1) else str(address)
        return text.upper() if d.chance(0.1) else text

    return make


def version(argument: str) -> Element:
    """Four numbers with dots, which read as an address and are none."""
    _empty(argument)
    return lambda scene, _: str(IPv4Address(bytes(scene.draws.below(n) for n in (12, 20, 30, 256))))


_LEET = str.maketrans("aeiost", "431057")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")


def leet(argument: str) -> Element:
    """An English word with digits for the letters that look like them."""
    _empty(argument)
    return lambda scene, _: people.slug(scene.draws.pick(_words())).translate(_LEET)


def walk(argument: str) -> Element:
    """Neighbours on the keyboard, so many, as ``walk:4-8``."""
    low, high = _range(argument)

    def make(scene: Scene, _: str) -> str:
        row = scene.draws.pick(_ROWS)
        length = min(scene.draws.between(low, high), len(row))
        start = scene.draws.between(0, len(row) - length)
        return row[start : start + length]

    return make


def smash(argument: str) -> Element:
    """What a hand types that wants no meaning: runs of letters of one row, and of digits."""
    low, high = _range(argument)

    def make(scene: Scene, _: str) -> str:
        d, text = scene.draws, ""
        length = d.between(low, high)
        while len(text) < length:
            text += d.string(d.pick(_ROWS), d.between(2, 7))
        return text[:length]

    return make


def _of_person(part: Callable[[people.Person], str]) -> Callable[[str], Element]:
    def maker(argument: str) -> Element:
        _empty(argument)
        return lambda scene, _: part(scene.person)

    return maker


def native(argument: str) -> Element:
    """A whole name in another script."""
    _empty(argument)
    return lambda scene, _: people.native(scene.draws)


def word(argument: str) -> Element:
    """An English word of small letters."""
    _empty(argument)
    return lambda scene, _: scene.draws.pick(_words())


def capital(argument: str) -> Element:
    """An English word with a capital."""
    _empty(argument)
    return lambda scene, _: scene.draws.pick(_words()).capitalize()


def line(argument: str) -> Element:
    """A line break, and what lines begin with here; a space where no line may be broken."""
    _empty(argument)
    return lambda scene, _: scene.wrap


def prose(argument: str) -> Element:
    """Some words that stand together in the document, or words at random."""
    _empty(argument)

    def make(scene: Scene, _: str) -> str:
        if scene.prose:
            return scene.draws.pick(scene.prose)
        return " ".join(scene.draws.pick(_words()) for _ in range(5))

    return make


def ident(argument: str) -> Element:
    """A name of the document's code, or two words joined."""
    _empty(argument)

    def make(scene: Scene, _: str) -> str:
        if scene.idents:
            return scene.draws.pick(scene.idents)
        return f"{scene.draws.pick(_words())}_{scene.draws.pick(_words())}"

    return make


def _words() -> tuple[str, ...]:
    return people.provider("lorem.en_US").word_list


def _empty(argument: str) -> None:
    if argument:
        raise ValueError("nothing after a colon")


def _range(argument: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", argument)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high:
        raise ValueError("one number or two, from low to high, as 16-24")
    return low, high


_SLUG = people.slug
MAKERS: dict[str, Callable[[str], Element]] = {
    "crc32": crc32, "b64": encoded, "uuid": uuid, "jwt": jwt, "basic": basic, "block": block,
    "ipv4": ipv4, "ipv6": ipv6, "version": version, "leet": leet, "walk": walk, "smash": smash,
    "native": native, "word": word, "Word": capital, "line": line, "prose": prose, "ident": ident,
    "given": _of_person(lambda p: p.given), "family": _of_person(lambda p: p.family),
    "second": _of_person(lambda p: p.second), "GIVEN": _of_person(lambda p: p.given.upper()),
    "FAMILY": _of_person(lambda p: p.family.upper()),
    "G": _of_person(lambda p: p.given[0]), "S": _of_person(lambda p: p.second[0]),
    "first": _of_person(lambda p: _SLUG(p.given) or "jo"),
    "last": _of_person(lambda p: _SLUG(p.family) or "li"),
    "middle": _of_person(lambda p: _SLUG(p.second) or "an"),
    "f": _of_person(lambda p: (_SLUG(p.given) or "j")[0]),
    "l": _of_person(lambda p: (_SLUG(p.family) or "l")[0]),
    "First": _of_person(lambda p: (_SLUG(p.given) or "jo").capitalize()),
    "Last": _of_person(lambda p: (_SLUG(p.family) or "li").capitalize()),
}  # fmt: skip
