"""Verb: select, filter, deduplicate, decontaminate, redact and mix documents."""
