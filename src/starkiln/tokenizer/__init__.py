"""Floor 2: byte-level BPE, layouts from segments, FIM, memory-mapped token shards."""
