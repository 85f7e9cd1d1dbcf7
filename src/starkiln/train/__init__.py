"""Verb: fit the tokenizer, pack token shards, train the decoder."""
