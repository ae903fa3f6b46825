#!/usr/bin/env bash
# Sign a file with an SSH key. Runs on the host, because no container may see the key:
#   sign.sh KEY FILE    leaves FILE.sig; the same Ed25519 key and file give the same signature
# The namespace says what the signature is for, so that it cannot be used for anything else.
set -euo pipefail
key=$1 file=$2

fail() {
    echo "archive: error: $*" >&2
    exit 2
}

command -v ssh-keygen > /dev/null || fail "SIGN_KEY is set, but there is no ssh-keygen to sign with. Install it (Debian: apt-get install openssh-client), or leave SIGN_KEY out: the archive itself is complete."
[ -f "$key" ] || fail "SIGN_KEY is '$key', but there is no such file. Name a private SSH key, or make one: ssh-keygen -t ed25519 -f my_key. The archive itself is complete."
trap 'rm -f "$file.sig.new"' EXIT
reason=$(ssh-keygen -Y sign -f "$key" -n lorabundle < "$file" 2>&1 > "$file.sig.new") \
    || fail "ssh-keygen cannot sign with SIGN_KEY=$key: $(tail -n 1 <<< "$reason" | tr -d '\r'). Name a private SSH key that only you can read (chmod 600). The archive itself is complete."
mv "$file.sig.new" "$file.sig"
echo "[archive] signed: $file.sig"
