"""Settings of the tokenizer, of layouts, of packing and of fill-in-the-middle."""

from starkiln.core.settings import Settings, key


class TokenizerSettings(Settings):
    """How the byte-level BPE is trained."""

    vocab_size: int = key(
        49_152, "entries, with the 19 sentinels and 256 bytes", "§5.3; rules §11", ge=275
    )
    sample_bytes: int = key(
        1_000_000_000, "bytes of training text the merges are learned from, by language", gt=0
    )


class LayoutSettings(Settings):
    """How often a code file's metadata stand before it, each drawn by itself."""

    repo_p: float = key(0.2, "probability of <reponame>", "§5.1; rules §10", ge=0, le=1)
    path_p: float = key(0.2, "probability of <filename>", "§5.1; rules §10", ge=0, le=1)
    stars_p: float = key(0.2, "probability of <gh_stars>", "§5.1; rules §10", ge=0, le=1)


class PackSettings(Settings):
    """How documents become token shards."""

    validation: float = key(
        0.01, "share of documents held out, by a keyed draw on their ids", ge=0, lt=1
    )


class FimSettings(Settings):
    """Fill-in-the-middle, drawn anew for each training window."""

    rate: float = key(0.5, "probability that a piece is rearranged", "§5.4; rules §13", ge=0, le=1)
    spm_rate: float = key(
        0.5, "share of SPM among the rearranged; the rest is PSM", "§5.4; rules §13", ge=0, le=1
    )
