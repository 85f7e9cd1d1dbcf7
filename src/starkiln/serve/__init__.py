"""Verb: answer completion requests over HTTP."""
