"""Near-dedup with text-dedup's own program, its Jaccard check on.

    python text_dedup_minhash.py FOLDER [LABELS]

``python -m text_dedup.minhash`` as its README sets it up, but for 25 bands of 10 rows: 5-grams of
what it splits at ``\\W`` in lower case, threshold 0.7. Needs text-dedup 0.4.1, so Python 3.12. Its
own processes, one a core, are waited for; what it writes lies in a folder that is removed.
"""

import os
import pickle
import runpy
import sys
import tempfile
from pathlib import Path

from outcome import tell

CONFIG = """
[input]
input_type = "local_files"
file_type = "parquet"
[input.read_arguments]
path = "parquet"
data_files = "{folder}/*.parquet"
columns = ["content"]
split = "train"
[algorithm]
algorithm_name = "minhash"
text_column = "content"
seed = 42
batch_size = 10000
num_perm = 250
bands = 25
rows = 10
threshold = 0.7
hash_bits = 64
ngram_size = 5
check_false_positive = true
[output]
output_dir = "output"
clean_cache = false
save_clusters = true
[debug]
enable_profiling = false
"""


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    sys.argv[2:] = [str(Path(name).resolve()) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"HF_DATASETS_CACHE": scratch, "HF_HUB_OFFLINE": "1"}
        os.chdir(scratch)
        Path("config.toml").write_text(CONFIG.format(folder=folder))
        asked, sys.argv = sys.argv, sys.argv[:1]
        stdout, sys.stdout = sys.stdout, sys.stderr
        runpy.run_module("text_dedup.minhash", run_name="__main__")
        sys.argv, sys.stdout = asked, stdout

        import pyarrow.parquet as pq

        rows = sum(pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet")))
        clusters = pickle.loads(Path("output/clusters.pickle").read_bytes())  # noqa: S301 (own)
        labels = [int(clusters.get(row, row)) for row in range(rows)]
        tell(rows, sum(label != row for row, label in enumerate(labels)), labels)


if __name__ == "__main__":
    main()
