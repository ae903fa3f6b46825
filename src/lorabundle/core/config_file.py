"""Config files: read together with those they extend, overridden, validated, and written in resolved form.

A config may say `extends: default.yaml` (a path relative to its own folder): it then holds only what differs. Sections are merged key by
key; a value that is a map itself (`data.tasks`, `data.columns`) replaces the inherited one.
"""

import argparse
import difflib
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lorabundle.core.config import Config, Section
from lorabundle.core.errors import ConfigError, MissingInputError
from lorabundle.core.files import atomic_write

# Keys that describe one model or dataset, by section and key that name it: whoever names another one does not inherit them
DESCRIBED_BY = {
    ("model", "source"): ("path", "revision", "name"),
    ("model", "path"): ("revision", "name"),
    ("data", "source"): ("splits", "revision", "files", "encoding", "packages", "tasks", "columns"),
    ("data", "splits"): ("source", "revision", "files", "encoding", "packages", "tasks", "columns"),
}


def load_config(path: Path, overrides: list[str] = ()) -> Config:
    """Read and validate a config file.

    Args:
        path: YAML file.
        overrides: `section.key=value` strings, applied in order; the value is YAML.

    Raises:
        MissingInputError: there is no such file, or one that it extends is not there.
        ConfigError: a file is not YAML, or any setting is wrong; all problems are in the one message.
    """
    chain = _chain(path)
    settings: dict = {}
    for layer in chain:
        settings = _merged(settings, layer)
    _drop_described(settings, {tuple(override.partition("=")[0].split(".")[:2]) for override in overrides})
    for override in overrides:
        _apply_override(settings, override)
    where = f"{path} with {' '.join(overrides)}" if overrides else str(path)
    return _validated(settings, where, is_alone=len(chain) == 1)


def load_resolved(path: Path) -> Config:
    """Read a file that `write_resolved` wrote, which has every setting and extends nothing. Raises as `load_config` does."""
    return _validated(_read(path), str(path), is_alone=False)


def write_resolved(config: Config) -> None:
    """Write `config.yaml` and the `.sections/` files below the run's folder, each only if its content changed."""
    settings = config.model_dump()
    texts = {config.run_dir / "config.yaml": dump_yaml(settings)}
    for name, value in settings.items():
        texts[config.run_dir / ".sections" / f"{name}.yaml"] = dump_yaml({name: value})
    for path, text in texts.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic_write(path, text)


def dump_yaml(settings: Any) -> str:
    """Settings as YAML in declaration order."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two arguments that every stage shares."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the settings of the run")
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="KEY=VALUE", help="override a setting")


def check_as_make_reads(config: Config, path: Path, read: list[str]) -> None:
    """Compare the settings that `docker/read_config.sh` read for make with the config's.

    Args:
        config: as `load_config` gives it.
        path: of the config, for the message.
        read: KEY=VALUE strings.

    Raises:
        ConfigError: they differ, so make would look for the run's files in other places than the stages.
    """
    cut_off = [statement for statement in read if "=" not in statement]
    if cut_off:
        raise ConfigError(
            f"{path}: make cannot use a file name or run name with spaces, and one ends in {cut_off[0]!r}. Use a name without spaces."
        )
    _check_own_files(config, path, dict(statement.split("=", 1) for statement in read))
    for statement in read:
        key, _, value = statement.partition("=")
        if key.startswith("data."):
            continue
        setting: Any = config
        for part in key.split("."):
            setting = getattr(setting, part)
        if value != (setting or ""):
            raise ConfigError(
                f"{path}: {key} is {setting!r}, but make, which reads a few settings before Python runs, finds {value!r}. Write each "
                f"setting on a line of its own, `key: value`, with the keys of a section indented below its name."
            )


def _check_own_files(config: Config, path: Path, read: dict[str, str]) -> None:
    """Refuse names of data files that make has not read, because it would not notice that such a file changes."""
    words = {
        word for key, value in read.items() if key.startswith("data.") for word in re.split(r"[\[\]{},:'\"]+", value)
    }
    for name in config.data.paths:
        if name not in words:
            odd = re.compile(r"[^\w./-]+")
            plain = odd.sub("-", Path(name).stem).strip("-") + Path(name).suffix
            folder = Path("data") if odd.search(Path(name).parent.as_posix()) else Path(name).parent
            reason = (
                f"its name has characters other than letters, digits, '.', '_', '-' and '/'. Copy it, and name the copy: "
                f"cp -r {shlex.quote(name)} {folder / plain}"
                if odd.search(name)
                else "make reads a few settings before Python runs. Write `source: file`, `source: [one, two]` or `splits: {train: file}` "
                "on one line, indented below `data:`"
            )
            raise ConfigError(
                f"{path}: make cannot follow the data file {name}, so a change of it would go unnoticed: {reason}."
            )


def _chain(path: Path) -> list[dict]:
    """The settings of a config and of those it extends, the one that extends nothing first."""
    chain: list[dict] = []
    seen: list[Path] = []
    while True:
        if path.resolve() in seen:
            raise ConfigError(f"{path} extends itself, by way of others perhaps. Remove one `extends`.")
        seen.append(path.resolve())
        settings = _read(path)
        chain.insert(0, settings)
        parent = settings.pop("extends", None)
        if parent is None:
            return chain
        if not isinstance(parent, str):
            raise ConfigError(
                f"{path}: extends must be the name of one config file, relative to this one, got {parent!r}."
            )
        if not (path.parent / parent).is_file():
            raise MissingInputError(f"{path} extends {parent}, but there is no file {path.parent / parent}.")
        path = path.parent / parent


def _read(path: Path) -> dict:
    if not path.is_file():
        shipped = ", ".join(sorted(str(file) for file in Path("config").glob("*.yaml"))) or "none found"
        raise MissingInputError(f"There is no config file {path}. Pass CONFIG=<file>; config/ has: {shipped}.")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where} is not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{path} holds no settings. A short one to start from: `extends: default.yaml` and `run: NAME`."
        )
    return settings


def _drop_described(settings: dict, changed: set[tuple[str, ...]]) -> None:
    """Remove what described another model or dataset, if `changed` keys, as (section, key), name a new one."""
    for section, key in DESCRIBED_BY.keys() & changed:
        if isinstance(settings.get(section), dict):
            for described in DESCRIBED_BY[section, key]:
                settings[section].pop(described, None)


def _merged(settings: dict, changes: dict) -> dict:
    """Settings with changes on top: sections are merged key by key, and a value replaces a value."""
    merged = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    sections = {name: value for name, value in changes.items() if isinstance(value, dict)}
    _drop_described(merged, {(section, key) for section, values in sections.items() for key in values})
    for name, value in changes.items():
        are_sections = name in sections and isinstance(merged.get(name), dict)
        merged[name] = merged[name] | value if are_sections else value
    return merged


def _validated(settings: dict, where: str, is_alone: bool) -> Config:
    """The settings as a Config. `is_alone`: the file extends no other, so that it must hold every key."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        known = _known_keys()
        problems = "; ".join(_describe(detail, known) for detail in error.errors())
        incomplete = is_alone and any(detail["type"] == "missing" for detail in error.errors())
        hint = (
            " To take what is not set from the default config, begin the file with `extends: default.yaml`."
            if incomplete
            else ""
        )
        count = "1 problem" if error.error_count() == 1 else f"{error.error_count()} problems"
        raise ConfigError(f"{where} has {count}: {problems}.{hint}") from error


def _describe(error: ErrorDetails, known: dict[str, list[str]]) -> str:
    """One problem as `key: what is wrong`, with the nearest known key for an unknown one."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parent, _, leaf = key.rpartition(".")
        near = difflib.get_close_matches(leaf, known.get(parent, []), n=1)
        if not near and not parent:  # a key whose section is missing
            near = [f"{section}.{leaf}" for section, keys in known.items() if section and leaf in keys]
        return f"{key}: unknown key" + (f" (did you mean {near[0]}?)" if near else "")
    if error["type"] == "missing":
        return f"{key}: required, but not set"
    if error["type"] == "string_pattern_mismatch":  # of the names of runs and models
        return f"{key}: can have letters, digits, '.', '_' and '-', and begins with a letter or digit; got {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, got {error['input']!r}" if error["type"] != "value_error" else message


def _known_keys() -> dict[str, list[str]]:
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    nested = {n: list(a.model_fields) for n, a in sections.items() if isinstance(a, type) and issubclass(a, Section)}
    return {"": list(sections), **nested}


class _PlainLoader(yaml.SafeLoader):
    """YAML without two traps: if a key is there twice, it silently takes the last one, and a few aliases can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                problem=f"*{event.anchor} is an alias; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key must be a name", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is set twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _apply_override(settings: dict, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, for example train.learning_rate=1e-4; got {override!r}.")
    *parents, leaf = key.split(".")
    if parents and parents[0] in Config.model_fields and parents[0] not in _known_keys():
        raise ConfigError(f"--set {override}: {parents[0]} is a value, not a section of the config.")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section of the config.")
    try:
        settings[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML ({error}).") from error
