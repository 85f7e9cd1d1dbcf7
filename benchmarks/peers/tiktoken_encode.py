"""tiktoken with our merges: the ids of texts, on one thread.

    python tiktoken_encode.py TEXTS RANKS OUT

TEXTS is a Parquet file with ``text``, RANKS one of JSON: ``pattern`` and ``tokens`` (hexadecimal,
by id). OUT gets ``ids`` and ``offsets``. ``encode_s``: CPU seconds of the encoding alone. Needs
tiktoken, NumPy and Polars.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import tiktoken
from outcome import tell


def main() -> None:
    texts = pl.read_parquet(sys.argv[1])["text"]
    given = json.loads(Path(sys.argv[2]).read_text())
    encoding = tiktoken.Encoding(
        "given",
        pat_str=given["pattern"],
        mergeable_ranks={bytes.fromhex(t): i for i, t in enumerate(given["tokens"]) if t},
        special_tokens={},
    )
    begin = time.process_time()
    ids = [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]
    spent = time.process_time() - begin
    np.savez(sys.argv[3], ids=np.concatenate(ids), offsets=np.cumsum([0, *map(len, ids)]))
    tell(len(texts), 0, encode_s=spent)


if __name__ == "__main__":
    main()
