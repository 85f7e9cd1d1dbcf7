"""Verb: raw repositories and archives to a table of documents."""
