"""Floor 0: recipes, stages, tables, manifests; knows nothing of code or models."""
