"""One decoder on many devices: tensor, sequence, pipeline, context and data parallel."""
