"""Which rows are for training, validation and test: as the user's data says, else by the hash of each row's group."""

from collections import Counter
from hashlib import sha256

from lorabundle.core.config import SPLITS, Data
from lorabundle.core.errors import EmptySplitError

LIMITS = {"train": "max_train_examples", "val": "max_val_examples", "test": "max_test_examples"}


def split_of(group: str, val_fraction: float, test_fraction: float) -> str:
    """The split of a group. It depends only on the group's name, so that adding data moves nothing between splits."""
    position = int(sha256(group.encode()).hexdigest()[:8], 16) / 0x1_0000_0000
    if position < test_fraction:
        return "test"
    return "val" if position < test_fraction + val_fraction else "train"


def own_splits(stated: list[str]) -> list[str]:
    """The splits that the user's data has, in order; [] if it has none."""
    return [name for name in SPLITS if name in set(stated)]


def assign_splits(
    ids: list[str], stated: list[str], groups: dict[int, str], settings: Data, lost: dict[str, int]
) -> dict[str, list[int]]:
    """Indices of the rows of each split, without limits. Unless the user has said otherwise, a group is never divided.

    If the user's data has splits, rows stay where it says; a split that it does not have is cut from its training rows.

    Args:
        ids: of all rows; within a split, rows are in the order of the hashes of these.
        stated: the user's own split of each row, or "".
        groups: {index: group} of the rows to assign.
        settings: fractions.
        lost: number of rows that are not among these, by cause, for the message.

    Raises:
        EmptySplitError: no row is left for a split.
    """
    own = own_splits(stated)
    val_fraction = 0 if "val" in own else settings.val_fraction
    test_fraction = 0 if "test" in own else settings.test_fraction
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    for index in sorted(groups, key=lambda index: sha256(ids[index].encode()).digest()):
        is_held_out = stated[index] in ("val", "test")
        splits[stated[index] if is_held_out else split_of(groups[index], val_fraction, test_fraction)].append(index)
    empty = [name for name, indices in splits.items() if not indices]
    if empty:
        raise EmptySplitError(_empty_message(empty[0], groups, own, settings, lost))
    return splits


def _empty_message(name: str, groups: dict[int, str], own: list[str], settings: Data, lost: dict[str, int]) -> str:
    """Why a split is empty, and what to do."""
    sizes = Counter(groups.values())
    largest = max(sizes.values(), default=0)
    num_lost = sum(lost.values())
    left = "1 is left" if len(groups) == 1 else f"{len(groups):,} are left"
    parts = [f"{count:,} {cause.replace('_', ' ')}" for cause, count in lost.items() if count]
    because = f" ({', '.join(parts)} left out)" if parts else ""
    message = (
        f"The {name} split is empty. Of {len(groups) + num_lost:,} rows, {left}{because}, in {len(sizes):,} groups"
    )
    message += f", the largest with {largest:,} rows. " if sizes else ". "
    remedies = []
    if largest > max(1, len(groups) // 2):
        remedies.append(
            "Rows of a group stay together: they share a group column's value, a prompt or a long answer, or these are similar. If they "
            "are not really alike, raise data.near_duplicate_threshold"
        )
    if name in own:
        remedies.append(f"Your data has rows marked {name}, but none of them can be used")
    elif name == "train":
        remedies.append("Add rows, or lower data.val_fraction and data.test_fraction")
    else:
        remedies.append(
            f"Add rows, or give this split a larger share (data.{name}_fraction is {getattr(settings, f'{name}_fraction')})"
        )
    return message + ". ".join(remedies) + "."


def limited(splits: dict[str, list[int]], own: list[str], settings: Data) -> tuple[dict[str, list[int]], list[str]]:
    """(The first rows of each split, up to its limit; a warning for each of the user's own held-out splits that this shortens)."""
    warnings = []
    for name in own:
        limit = getattr(settings, LIMITS[name])
        if name != "train" and len(splits[name]) > limit:
            warnings.append(
                f"Your {name} split has {len(splits[name]):,} rows, and data.{LIMITS[name]} keeps {limit:,} of them. Raise it to use more."
            )
    return {name: indices[: getattr(settings, LIMITS[name])] for name, indices in splits.items()}, warnings
