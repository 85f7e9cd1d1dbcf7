"""Bulk encoding against its peers on real source: equal ids, then MB a CPU-second and the ratio.

    python benchmarks/encode.py [megabytes]

Bars: at least 30 times ``tokenizers``' ``encode_batch_fast`` at each vocabulary, on ids that are
all the same; tiktoken, where it is installed, is given the same merges and is there to compare.
"""

import sys
import time
from functools import partial

import numpy as np
import polars as pl

from corpus import python_files
from starkiln.tokenizer import bulk
from starkiln.tokenizer.tokenizer import Tokenizer, fit

MEGABYTES = 60
VOCABULARIES = (49_152, 2_048)
BAR = 30
REFERENCE = 6  # every sixth file goes through the slow ones
LEARNED = 2  # the vocabulary is learned from every second file
ROUNDS = 3
PATTERN = (  # ours as one expression: numbers singly, and no space is left to stand before one
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
)


def seconds(encode: bulk.Encode, texts: pl.Series) -> tuple[float, bulk.Encoded]:
    """CPU seconds of this process and its threads, and what came out."""
    start = time.process_time()
    found = encode(texts)
    return time.process_time() - start, found


def tiktokens(tokenizer: Tokenizer) -> bulk.Encode | None:
    """The same vocabulary by tiktoken on one thread, or None where it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    ranks = {token: i for i, token in enumerate(tokenizer.token_bytes) if token}
    encoding = tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(texts: pl.Series) -> bulk.Encoded:
        ids = [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]
        offsets = np.cumsum([0, *map(len, ids)])
        return bulk.Encoded(np.concatenate(ids), offsets)

    return encode


def main() -> None:
    texts = python_files(int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES)["text"]
    part = texts[::REFERENCE]
    size, small = (t.str.len_bytes().sum() / 1e6 for t in (texts, part))
    print(f"{len(texts):,} files, {size:.1f} MB; the slower encoders: {small:.1f} MB of them")
    missed = []
    for vocab_size in VOCABULARIES:
        tokenizer = fit(texts[::LEARNED], vocab_size)
        fast, name = bulk.encoder(tokenizer, texts[:20])
        print(f"\nvocabulary {tokenizer.vocab_size:,}; ours runs on {name}")
        # A new encoder each time: none has seen a word before.
        ours = size / min(seconds(bulk.Fast(tokenizer), texts)[0] for _ in range(ROUNDS))
        checked = fast(part)
        print(f"  ours                          {ours:8.1f} MB/CPU-s")
        others = {"tokenizers encode_batch_fast": partial(bulk.encode, tokenizer)}
        peer = tiktokens(tokenizer)
        if peer is None:
            print("  tiktoken: not installed, skipped")
        else:
            others["tiktoken"] = peer
        for other, encode in others.items():
            spent, found = seconds(encode, part)
            equal = all(map(np.array_equal, found, checked))
            ratio = ours * spent / small
            print(
                f"  {other:29} {small / spent:8.2f} MB/CPU-s; ours {ratio:.1f} x; "
                f"{len(found.tokens):,} ids {'equal' if equal else 'DIFFER'}"
            )
            if other.startswith("tokenizers") and (ratio < BAR or not equal):
                missed.append(f"vocabulary {vocab_size}: {ratio:.1f} x, ids equal: {equal}")
    if missed:
        sys.exit("missed: " + "; ".join(missed))
    print(f"\nbar (at least {BAR} x, ids equal): met at every vocabulary")


if __name__ == "__main__":
    main()
