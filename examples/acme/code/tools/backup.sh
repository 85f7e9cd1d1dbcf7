#!/bin/sh
# Copy the ledger to the vault, and keep the last seven copies.
set -eu

ledger=${1:?usage: backup.sh LEDGER VAULT}
vault=${2:?usage: backup.sh LEDGER VAULT}

copy="$vault/ledger-$(date +%Y-%m-%d).db"
cp "$ledger" "$copy"
sha256sum "$copy" > "$copy.sha256"

ls -1t "$vault"/ledger-*.db | tail -n +8 | while read -r old; do
    rm -f "$old" "$old.sha256"
done
