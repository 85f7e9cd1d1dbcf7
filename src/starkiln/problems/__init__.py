"""Floor 1: benchmark problems: what to complete and how it is judged."""
