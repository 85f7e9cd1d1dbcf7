"""Floor 3: the decoder, its checkpoints and the sampling engine."""
