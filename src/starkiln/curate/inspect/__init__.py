"""Manual inspection: a keyed sample of every kind of file, on a local page, with verdicts."""
