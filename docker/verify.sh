#!/usr/bin/env bash
# Check a submission (lorabundle.verify says how): verify.sh ARCHIVE LEVEL [SIGN_KEY]
# First checks the files next to the archive: ARCHIVE.sha256, and the signature ARCHIVE.sig, which must be by SIGN_KEY if a public key
# is named. Then copies the archive into outputs/, where a container can read it, and runs stages again in outputs/.verify/eval or full.
# Exit codes: 0 verified, 1 a check or a stage failed, 2 bad input, 3 differences.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/host.sh
archive=$1 level=${2:-} key=${3:-}

fail() {
    echo "verify: error: $*" >&2
    exit 2
}

[ -n "$archive" ] || fail "which archive? For example: make verify ARCHIVE=archive/submission-phi-3.tar.gz LEVEL=report"
[ -f "$archive" ] || fail "there is no archive $archive. For example: make verify ARCHIVE=archive/submission-phi-3.tar.gz LEVEL=report"
case $level in hashes | report | eval | full) ;; *) fail "LEVEL is '$level'; it can be hashes, report, eval or full." ;; esac

differ() {
    echo "[verify] DIFFERENCE $*"
    echo "[verify] DIFFERENT: 1 difference (level $level)"
    exit 3
}

# With a key, the signature must be by its owner. Without one, it may be by any key; that key is then printed.
check_signature() {
    command -v ssh-keygen > /dev/null || fail "checking the signature $archive.sig needs ssh-keygen (Debian: apt-get install openssh-client)."
    [ -f "$archive.sig" ] || differ "$archive.sig: expected a signature by the key $key, found no such file, tolerance none"
    local signers said arguments=(-Y check-novalidate)
    if [ -n "$key" ]; then
        grep -qE '^(ssh-|ecdsa-|sk-)' "$key" 2> /dev/null || fail "SIGN_KEY is '$key', which is not a public SSH key. Name the signer's: SIGN_KEY=path/to/key.pub"
        signers=$(mktemp)
        trap 'rm -f "$signers"' RETURN
        echo "signer namespaces=\"lorabundle\" $(cut -d ' ' -f 1,2 "$key")" > "$signers"
        arguments=(-Y verify -f "$signers" -I signer)
    fi
    said=$(ssh-keygen "${arguments[@]}" -n lorabundle -s "$archive.sig" < "$archive" 2>&1) \
        || differ "$archive.sig: expected a signature of $archive by ${key:-any key}, found: $(tail -n 1 <<< "$said"), tolerance none"
    echo "[verify] signature: $said${key:+, which is $key}"
}

if [ -f "$archive.sha256" ]; then
    found=$(sha256 < "$archive") expected=$(cut -c1-64 "$archive.sha256")
    [ "$found" = "$expected" ] || differ "$archive: expected $expected as in $archive.sha256, found $found, tolerance none"
    echo "[verify] checksum: as in $archive.sha256"
fi
if [ -n "$key" ] || [ -f "$archive.sig" ]; then check_signature; fi

copy=outputs/.verify/archive.tar.gz
mkdir -p outputs
exec 9> outputs/.verify.lock
! command -v flock > /dev/null || flock -n 9 || fail "another archive is being verified in this folder. Wait for it to end, or use another clone."
echo "[verify] archive: $archive, sha256 $(sha256 < "$archive")"
kept=$(mktemp outputs/.archive.XXXXXX) # copied first, because the archive may itself be in outputs/.verify
cp "$archive" "$kept"
rm -rf outputs/.verify
mkdir -p outputs/.verify
mv "$kept" $copy

# again LEVEL STAGE ...: run stages in the folder that was prepared for the level
again() {
    local folder=outputs/.verify/$1 stage
    for stage in "${@:2}"; do
        echo "[verify] running $stage again"
        if [ "$stage" = fetch ]; then export NETWORK=1; else unset NETWORK; fi
        NUMERICS=$(bash docker/read_config.sh "$folder/config.yaml" | sed -n 's/^numerics=//p') \
            bash docker/run.sh env -C "$folder" python -m "lorabundle.$stage" --config config.yaml || {
            local status=$?
            echo "[verify] NOT VERIFIED: $stage failed when it ran again, see above (level $level)"
            exit $status
        }
    done
}

bash docker/run.sh python -m lorabundle.verify check --archive $copy --level "$level"
case $level in
    eval) again eval fetch preprocess evaluate ;;
    full)
        again full fetch preprocess train evaluate sample report
        # If training gave other bytes, the shipped adapter is evaluated too
        cmp -s outputs/.verify/{shipped,full}/outputs/*/adapter/adapter_model.safetensors || again eval fetch preprocess evaluate
        ;;
    *) exit 0 ;;
esac
bash docker/run.sh python -m lorabundle.verify compare --archive $copy --level "$level"
