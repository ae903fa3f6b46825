#!/usr/bin/env bash
# Write docker/*.lock from docker/*.in: exact versions, with a sha256 for every file that may be installed. (Debian's packages: base_image.sh.)
# Run through `make lock` with CPython 3.11, because the locks are resolved for the interpreter that runs this.
set -euo pipefail
cd "$(dirname "$0")"
. ./host.sh
python=${PYTHON:-python3}
torch_aarch64=torch==2.10.0 # later ones on the package index are CUDA builds there

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

# The lock for aarch64 is the one for x86-64 with another torch, and for each package the sha256 of the file that pip takes there.
# (pip's resolver cannot resolve for another machine, because it evaluates markers for its own; `make test-aarch64` runs pip check.)
target=($(wheels_for aarch64))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n -e "s/^torch==[^ ]*/$torch_aarch64/" -e 's/^\([a-z].*==[^ ]*\).*/\1/p' requirements.lock > "$work/versions"
"$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report "$work/report" --target "$work" "${target[@]}" \
    --requirement "$work/versions"
"$python" - "$work/report" "$torch_aarch64" << 'END'
import json, re, sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text())
sums = {
    re.sub("[-_.]+", "-", item["metadata"]["name"]).lower(): item["download_info"]["archive_info"]["hashes"]["sha256"]
    for item in report["install"]
}
lines = []
for line in Path("requirements.lock").read_text().splitlines():
    if pin := re.match("([a-z0-9-]+)==", line):
        package = sys.argv[2] if pin[1] == "torch" else line.removesuffix(" \\")
        lines += [f"{package} \\", f"    --hash=sha256:{sums[pin[1]]}"]
    elif not line.startswith("    --hash"):
        lines.append(line)
Path("requirements-aarch64.lock").write_text("\n".join(["# For Linux on aarch64, made from requirements.lock"] + lines) + "\n")
END

# Of the OpenMP runtime's wheel, the file for each architecture
for cpu in x86_64 aarch64; do
    "$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report "$work/openmp-$cpu" --target "$work" \
        $(wheels_for "$cpu") --requirement openmp.in
done
"$python" - "$work"/openmp-* > openmp.lock.new << 'END'
import json, sys
from pathlib import Path

found = [json.loads(Path(report).read_text())["install"][0] for report in sys.argv[1:]]
print("# Made by `make lock` from openmp.in, for x86-64 and aarch64: a wheel of which one file is used.")
print(f"{found[0]['metadata']['name'].lower()}=={found[0]['metadata']['version']}", end="")
for item in found:
    print(f" \\\n    --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}", end="")
print("\n    # via -r openmp.in")
END
mv openmp.lock.new openmp.lock

# The assets are data: their own dependencies do not matter, and pip-compile cannot leave those out.
"$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report - -r assets.in | "$python" -c '
import json, sys
print("# Made by `make lock` from assets.in: wheels that are read as data and installed nowhere.")
for item in sorted(json.load(sys.stdin)["install"], key=lambda item: item["metadata"]["name"]):
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    print(f"{name}=={version} \\\n    --hash=sha256:" + item["download_info"]["archive_info"]["hashes"]["sha256"])
' > assets.lock.new
mv assets.lock.new assets.lock
