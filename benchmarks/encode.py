"""Bulk encoding against its peers on real source: equal ids, then MB a CPU-second and the ratio.

    python benchmarks/encode.py [megabytes]

The text is the corpus of ``corpus.py`` where it has been made, else installed Python. Bars: at
least 30 times ``tokenizers``' ``encode_batch_fast``, all ids the same, at each vocabulary; 5 times
tiktoken, which gets the same merges and runs in its own environment (``peers/README.md``), at the
paper's. Clocks run on the encoding alone, in processes that are started already.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from corpus import home, python_files
from starkiln.tokenizer import bulk
from starkiln.tokenizer.tokenizer import Tokenizer, fit

MEGABYTES = 100
VOCABULARIES = {49_152: 1, 2_048: 6}  # and every so manieth file goes through the slow ones
BARS = {"tokenizers encode_batch_fast": 30, "tiktoken": 5}
LEARNED = 4  # the vocabulary is learned from every fourth file
ROUNDS = 3
PATTERN = (  # ours as one expression: numbers singly, and no space is left to stand before one
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
)
Timed = tuple[float, bulk.Encoded]


def corpus_texts(megabytes: int) -> pl.Series:
    """So many megabytes of the corpus, shard by shard, or of installed Python."""
    shards = sorted((home() / "corpus").glob("*.parquet"))
    if not shards:
        return python_files(megabytes)["text"]
    texts = pl.concat([pl.read_parquet(s, columns=["content"])["content"] for s in shards])
    return texts.head(int((texts.str.len_bytes().cum_sum() < megabytes * 1e6).sum()) + 1)


def seconds(encode: bulk.Encode, texts: pl.Series) -> Timed:
    """CPU seconds of this process and its threads, and what came out."""
    start = time.process_time()
    found = encode(texts)
    return time.process_time() - start, found


def tiktokens(tokenizer: Tokenizer, texts: pl.Series) -> Timed | None:
    """The same vocabulary by tiktoken on one thread; None where it has no environment."""
    python = home() / "venvs" / "tiktoken" / "bin" / "python"
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, ranks, out = (Path(folder) / n for n in ("texts.parquet", "ranks.json", "ids.npz"))
        texts.alias("text").to_frame().write_parquet(given)
        tokens = [token.hex() for token in tokenizer.token_bytes]
        ranks.write_text(json.dumps({"pattern": PATTERN, "tokens": tokens}))
        peer = Path(__file__).parent / "peers" / "tiktoken_encode.py"
        done = subprocess.run([python, peer, given, ranks, out], stdout=subprocess.PIPE, check=True)
        found = np.load(out)
        encoded = bulk.Encoded(found["ids"], found["offsets"])
        return json.loads(done.stdout)["encode_s"], encoded


def compare(texts: pl.Series, part: pl.Series, vocab_size: int) -> list[str]:
    """Print the rates at one vocabulary; what misses its bar."""
    size, small = (t.str.len_bytes().sum() / 1e6 for t in (texts, part))
    tokenizer = fit(texts[::LEARNED], vocab_size)
    fast, name = bulk.encoder(tokenizer, texts[:20])
    print(f"\nvocabulary {tokenizer.vocab_size:,}; ours runs on {name}; the others: {small:.1f} MB")
    # A new encoder each time: none has seen a word before.
    ours = size / min(seconds(bulk.Fast(tokenizer), texts)[0] for _ in range(ROUNDS))
    checked = fast(part)
    print(f"  {'ours':29} {ours:8.1f} MB/CPU-s")
    runs = {
        "tokenizers encode_batch_fast": seconds(partial(bulk.encode, tokenizer), part),
        "tiktoken": tiktokens(tokenizer, part),
    }
    missed = []
    for other, run in runs.items():
        if run is None:
            print(f"  {other}: no environment, left out")
            continue
        spent, found = run
        equal = all(map(np.array_equal, found, checked))
        ratio = ours * spent / small
        asked = other != "tiktoken" or vocab_size == max(VOCABULARIES)
        bar = BARS[other] if asked else 0
        same = "equal" if equal else "DIFFER"
        verdict = "PASS" if equal and ratio >= bar else "miss"
        print(
            f"  {other:29} {small / spent:8.2f} MB/CPU-s; ours {ratio:.1f} x (bar {bar or '–'}); "
            f"{len(found.tokens):,} ids {same}: {verdict}"
        )
        if verdict == "miss":
            missed.append(f"{other}, vocabulary {vocab_size}")
    return missed


def main() -> None:
    texts = corpus_texts(int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES)
    print(f"{len(texts):,} files, {texts.str.len_bytes().sum() / 1e6:.1f} MB")
    missed = [m for size, nth in VOCABULARIES.items() for m in compare(texts, texts[::nth], size)]
    if missed:
        sys.exit("missed: " + "; ".join(missed))
    print("\nbars: met")


if __name__ == "__main__":
    main()
