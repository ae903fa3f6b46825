"""What the manifest says about a dataset: lengths, licences, the entry of each split."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from email.parser import HeaderParser
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml
from datasets import Dataset

from lorabundle.core.files import sha256_file
from lorabundle.core.package_licence import stated_licences
from lorabundle.model.prompts import IGNORE_INDEX


def lengths(splits: dict[str, Iterable[dict]]) -> dict[str, dict]:
    """Distribution of the token counts of prompts (all tokens without a label) and responses, by split, with the same edges.

    Args:
        splits: rows with `labels`, not yet cut.
    """
    counted = {
        split: {
            "prompt": [row["labels"].count(IGNORE_INDEX) for row in rows],
            "response": [len(row["labels"]) - row["labels"].count(IGNORE_INDEX) for row in rows],
        }
        for split, rows in splits.items()
    }
    edges = {part: _edges(max(max(by_part[part]) for by_part in counted.values())) for part in ("prompt", "response")}
    return {
        split: {part: distribution(values, edges[part]) for part, values in by_part.items()}
        for split, by_part in counted.items()
    }


def distribution(values: list[int], edges: list[int]) -> dict:
    """Summary and histogram: `counts[i]` counts the values with `edges[i] <= value < edges[i + 1]`; 95 % of the values are at most p95."""
    ranked = sorted(values)
    return {
        "min": ranked[0],
        "median": median(ranked),
        "p95": ranked[-(-95 * len(ranked) // 100) - 1],
        "max": ranked[-1],
        "edges": edges,
        "counts": [sum(low <= value < high for value in ranked) for low, high in pairwise(edges)],
    }


def _edges(largest: int) -> list[int]:
    """0, 8, 16, 24, 32, then powers of two and the values half-way between, until one is above `largest`."""
    edges = [0, 8, 16, 24, 32]
    while edges[-1] <= largest:
        edges.append(edges[-1] * 3 // 2 if edges[-1] & (edges[-1] - 1) == 0 else edges[-1] * 4 // 3)
    return edges


def describe_split(rows: Dataset, folder: Path) -> dict:
    """A split's entry in the manifest. `sha256` is of the Arrow data, which depends only on the rows."""
    (arrow,) = folder.glob("*.arrow")
    return {
        "examples": len(rows),
        "groups": len({row["group"] for row in rows}),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "response_tokens": sum(label != IGNORE_INDEX for row in rows for label in row["labels"]),
        "kinds": dict(sorted(Counter(row["kind"] for row in rows).items())),
        "sha256": sha256_file(arrow),
    }


def wheel_licences(wheels: dict[str, Path]) -> dict[str, str]:
    """The licences that each wheel's metadata states, by package; a package that states none is left out."""
    return {package: licence for package, wheel in wheels.items() if (licence := _wheel_licence(wheel))}


def _wheel_licence(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return ", ".join(stated_licences(metadata))


def front_matter(card: Path) -> dict:
    """The YAML at the head of a hub dataset's README.md; {} if there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.S)
    try:
        content = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def card_licence(card: Path) -> str:
    """`license` in the front matter of a hub dataset's README.md; "" if it states none."""
    stated = front_matter(card).get("license")
    return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
