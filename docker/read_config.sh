#!/usr/bin/env bash
# Print the settings that make must know before Python can run, one KEY=VALUE a line: read_config.sh CONFIG [KEY=VALUE ...]
# These name the run's folder, the model's folder and the user's own files. Each file that CONFIG extends is printed too, as
# extends=FILE. Only the plain form is understood: `key: value` lines, those of a section indented below its name.
# lorabundle.resolve_config reads the same config as YAML, and refuses one that this script reads differently.
set -euo pipefail

# The chain of configs, the one that extends nothing first
chain=()
next=$1
while [ -f "$next" ] && [ ${#chain[@]} -lt 10 ]; do # a circle ends here, and lorabundle.resolve_config explains it
    chain=("$next" ${chain[@]+"${chain[@]}"})
    parent=$(tr -d '\r' < "$next" | sed -n "s/^extends: *[\"']*\([^ \"'#]*\).*/\1/p" | head -n 1)
    [ -n "$parent" ] || break
    next=$(dirname "$next")/$parent
    echo "extends=$next"
done
[ ${#chain[@]} -gt 0 ] || exit 0

{
    for file in "${chain[@]}"; do
        echo "FILE"
        tr -d '\r' < "$file"
        echo
    done
    echo "FILE"
    for override in "${@:2}"; do echo "SET $override"; done
} | awk '
    BEGIN {
        count = split("run numerics model.name model.source model.path data.source data.splits data.splits.train data.splits.val data.splits.test", wanted)
        for (i = 1; i <= count; i++) known[wanted[i]] = 1
    }
    function plain(value) { # without a comment, quotes, and the ways to write null
        sub(/^[ \t]+/, "", value)
        if (value ~ /^"/) { sub(/^"/, "", value); sub(/".*/, "", value) }
        else if (value ~ /^\047/) { sub(/^\047/, "", value); sub(/\047.*/, "", value) }
        else { sub(/[ \t]+#.*/, "", value); sub(/^#.*/, "", value); sub(/[ \t]+$/, "", value); if (value == "null" || value == "~") value = "" }
        if (value ~ /^[[{]/) gsub(/[ \t]+/, "", value) # a list or map on one line: make splits at spaces
        return value
    }
    function note(key, value) { if (key in known) own[key] = plain(value) }
    function merge(  key) { # as core/config_file.py does: a model of other origin has a name and a path of its own
        if ("model.source" in own || "model.path" in own) { delete all["model.name"]; if ("model.source" in own) delete all["model.path"] }
        if ("data.source" in own) delete all["data.splits"]
        if ("data.splits" in own) delete all["data.source"]
        for (key in own) { all[key] = own[key]; delete own[key] }
        section = ""
    }
    $0 == "FILE" { merge(); files++; next }
    /^SET / {
        line = substr($0, 5)
        note(substr(line, 1, index(line, "=") - 1), substr(line, index(line, "=") + 1))
        next
    }
    /^[A-Za-z_]+:/ {
        key = substr($0, 1, index($0, ":") - 1)
        section = key
        note(key, substr($0, index($0, ":") + 1))
        next
    }
    /^[ ]+[A-Za-z_]+:/ {
        key = $0
        sub(/^ +/, "", key)
        depth = length($0) - length(key)
        if (indent[files, section] == "") indent[files, section] = depth
        value = substr(key, index(key, ":") + 1)
        key = substr(key, 1, index(key, ":") - 1)
        if (depth == indent[files, section]) note(section "." key, value)
    }
    END {
        merge()
        if (all["model.name"] == "") { all["model.name"] = all["model.path"]; sub(/\/+$/, "", all["model.name"]); sub(/.*\//, "", all["model.name"]) }
        for (key in known) print key "=" all[key]
    }
'
