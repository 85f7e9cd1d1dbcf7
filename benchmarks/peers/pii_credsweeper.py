"""CredSweeper with its model at the default threshold.

    python pii_credsweeper.py TEXTS SECONDS SPANS

Its document mode is off, as it is by default. Needs credsweeper.
"""

import logging
import warnings

from credsweeper.app import CredSweeper
from credsweeper.common.constants import ThresholdPreset
from credsweeper.file_handler.byte_content_provider import ByteContentProvider
from pii_scan import Spans, Texts, place, scan, told

BATCH = 16
PASSWORDS = ("URL Credentials", "CURL User Password", "CMD ConvertTo-SecureString")


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # it means to rename its classes
    sweeper = CredSweeper(ml_threshold=ThresholdPreset.medium, pool_count=1)

    def find(texts: Texts) -> list[Spans]:
        files = [
            ByteContentProvider(text.encode(), file_path=f"{number}/{name}", file_type=_type(name))
            for number, (name, text) in enumerate(texts)
        ]
        manager = sweeper.credential_manager
        manager.set_credentials(sweeper.files_scan(files))
        sweeper.post_processing(None)
        found: list[Spans] = [[] for _ in texts]
        for one in manager.get_credentials():
            for data in one.line_data_list:
                number = int(data.path.split("/", 1)[0])
                begin = max(0, data.value_start)
                where = place(texts[number][1], data.line_num, data.value or "", begin)
                if where:
                    label = told(f"{one.rule_name} {data.variable or ''}")
                    label = "PASSWORD" if one.rule_name in PASSWORDS else label
                    found[number].append((*where, label, one.rule_name))
        return found

    scan(find, BATCH)


def _type(name: str) -> str:
    return "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""


if __name__ == "__main__":
    main()
