#!/usr/bin/env bash
# Write docker/*.lock from docker/*.in: exact versions, with a sha256 for every file that may be installed.
# Run through `make lock` with CPython 3.11, because the locks are resolved for the interpreter that runs this.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}

# PyTorch's own index is added only if pip's settings do not already offer the CPU build. No address goes into the lock.
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.in)
if "$python" -m pip install --quiet --dry-run --no-deps --ignore-installed "$torch" > /dev/null 2>&1; then TORCH_INDEX=; fi

compile() {
    CUSTOM_COMPILE_COMMAND="make lock" "$python" -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras \
        --no-emit-find-links --no-emit-index-url ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        --upgrade --output-file "$1.lock" "$1.in"
}
compile requirements
compile dev

# The assets are data: their own dependencies do not matter, and pip-compile cannot leave those out.
"$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report - -r assets.in | "$python" -c '
import json, sys
print("# Made by `make lock` from assets.in: wheels that are read as data and installed nowhere.")
for item in sorted(json.load(sys.stdin)["install"], key=lambda item: item["metadata"]["name"]):
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    print(f"{name}=={version} \\\n    --hash=sha256:" + item["download_info"]["archive_info"]["hashes"]["sha256"])
' > assets.lock.new
mv assets.lock.new assets.lock
