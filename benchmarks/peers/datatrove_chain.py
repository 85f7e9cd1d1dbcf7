"""The code chain with datatrove's own steps: read, filter, dedup, decontaminate, PII, write.

    python datatrove_chain.py FOLDER [WORKERS]

FOLDER holds Parquet files (see ``polars_filters``), and beside it lies ``needles.jsonl``, one text
a line. ``LambdaFilter`` with the paper's row rules in plain Python; ``ExactDedup``;
``MinhashDedup`` with 25 buckets of 10 over 5-grams of the text as it is (its default drops case,
digits and punctuation, which is wrong for code); ``NGramsDecontFilter`` on 12-grams;
``PIIFormatter``; ``ParquetWriter``. Words are those of spaCy's multilingual tokenizer, which is
what it calls its whitespace one. The index of n-grams is written here with its own functions: its
indexer insists on lighteval. Needs datatrove and spaCy.
"""

import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup import exact_dedup, minhash
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text
from datatrove.utils.word_tokenizers import load_word_tokenizer
from outcome import tell

WHITESPACE = "chr"  # a language to which it gives its whitespace tokenizer
AS_IS = TextNormConfig(
    lowercase=False,
    norm_whitespace=False,
    remove_punctuation=False,
    norm_unicode_diacritics=False,
    norm_numbers=False,
)
NEAR = minhash.MinhashConfig(n_grams=5, num_buckets=25, hashes_per_bucket=10, norm_config=AS_IS)
DECONT = NGramsDecontConfig()


def content(document: Document) -> str:
    return document.text


def kept(document: Document) -> bool:
    """The row filters, by the limits that the row brings along."""
    text, limits = document.text, document.metadata
    lines = [len(line) for line in text.split("\n")]
    if max(lines) > limits["max_line"] or sum(lines) / len(lines) > limits["mean_line"]:
        return False
    if sum(map(str.isalnum, text)) < limits["alphanumeric"] * len(text):
        return False
    least = limits["alphabetic"]
    if least and sum(map(str.isalpha, text)) < least * len(text):
        return False
    return not (limits["xml"] and "<?xml version=" in text[:100])


def index(needles: Path, folder: Path) -> None:
    """The n-grams of the benchmarks' texts, as the filter reads them."""
    words = load_word_tokenizer(WHITESPACE).word_tokenize
    digest = create_hash_func(DECONT.hash_config)
    texts = [json.loads(line) for line in needles.read_text().splitlines()]
    grams = (ngrams(words(simplify_text(t, DECONT.norm_config)), DECONT.n_grams) for t in texts)
    found = {digest(" ".join(gram)) for one in grams for gram in one}
    folder.mkdir()
    np.array(sorted(found), DECONT.hash_config.np_descr).tofile(folder / "needles.index.hashes")


def chain(source: Path, work: Path, files: int, workers: int) -> None:
    exact = exact_dedup.ExactDedupConfig(content_getter=content)
    read = partial(ParquetReader, text_key="content", id_key="path")
    again = partial(ParquetReader, str(work / "filtered"))
    unique = partial(exact_dedup.ExactDedupFilter, str(work / "exact_out"), config=exact)
    sigs, buckets, sets = (str(work / name) for name in ("sigs", "buckets", "sets"))
    pipelines = [
        ([read(str(source)), LambdaFilter(kept), ParquetWriter(str(work / "filtered"))], files),
        ([again(), exact_dedup.ExactDedupSignature(str(work / "exact"), exact)], files),
        ([exact_dedup.ExactFindDedups(str(work / "exact"), str(work / "exact_out"), exact)], 1),
        (
            [
                again(),
                unique(),
                minhash.MinhashDedupSignature(sigs, NEAR, WHITESPACE),
            ],
            files,
        ),
        ([minhash.MinhashDedupBuckets(sigs, buckets, config=NEAR)], NEAR.num_buckets),
        ([minhash.MinhashDedupCluster(buckets, sets, config=NEAR)], 1),
        (
            [
                *(again(), unique(), minhash.MinhashDedupFilter(sets)),
                NGramsDecontFilter(str(work / "index"), DECONT, language=WHITESPACE),
                *(PIIFormatter(), ParquetWriter(str(work / "out"))),
            ],
            files,
        ),
    ]
    for number, (steps, tasks) in enumerate(pipelines):
        logs = str(work / "logs" / str(number))
        LocalPipelineExecutor(steps, tasks, min(workers, tasks), logs).run()


def main() -> None:
    import pyarrow.parquet as pq

    source = Path(sys.argv[1]).resolve()
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    work = Path(tempfile.mkdtemp())
    try:
        index(source.parent / "needles.jsonl", work / "index")
        shards = sorted(source.glob("*.parquet"))
        chain(source, work, len(shards), workers)
        before = sum(pq.read_metadata(path).num_rows for path in shards)
        after = sum(pq.read_metadata(path).num_rows for path in work.glob("out/*.parquet"))
        tell(before, before - after)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
