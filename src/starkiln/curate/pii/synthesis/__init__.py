"""Training data for the tagger: real code, with entities that nobody owns put into it (paper §4.1).

``examples`` turns a frame of documents into a frame of examples. What is put in comes from two
tables: ``formats.toml`` (values of every kind, and what only looks like one) and
``templates.toml`` (the lines they stand in). Users add formats of their own in the same language.
"""
