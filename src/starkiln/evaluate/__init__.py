"""Verb: sample, judge in the sandbox, score, report."""
