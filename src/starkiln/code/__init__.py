"""Floor 1: what a document is, and what we know of languages, licences and sentinels."""
