"""Which files a setting stands for, and which split each is for."""

import pytest

from lorabundle.core.errors import MissingInputError
from lorabundle.data.source_files import card_configs, source_files, split_of_name
from tests.unit.data.test_splits import settings


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes empty files below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


def found(**source) -> list[tuple[str, str]]:
    return [(file.path.as_posix(), file.split) for file in source_files(settings(**source))]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/validation-00000-of-00004.parquet", "val"),
        ("test/0.csv", "test"),
        ("my_dev_set.json.gz", "val"),
        ("Test.JSONL", "test"),
        ("contest.jsonl", ""),
        ("latest.csv", ""),
        ("train_test.jsonl", ""),  # which of the two?
        ("trainer/a.jsonl", ""),
    ],
)
def test_split_of_a_name(tmp_path, name, split):
    assert split_of_name((tmp_path / name).relative_to(tmp_path)) == split


def test_one_file_has_no_split_whatever_its_name(project):
    project("mine/test.jsonl")
    assert found(source="mine/test.jsonl") == [("mine/test.jsonl", "")]
    assert found(source="mine") == [("mine/test.jsonl", "")]


def test_a_folder_is_read_with_its_subfolders_and_splits(project):
    project("mine/train/a.csv", "mine/train/b.csv", "mine/test/a.csv", "mine/README.md", "mine/.hidden/c.csv")
    assert found(source="mine") == [
        ("mine/test/a.csv", "test"),
        ("mine/train/a.csv", "train"),
        ("mine/train/b.csv", "train"),
    ]


def test_files_without_a_split_in_their_names_are_training_data(project, caplog):
    caplog.set_level("INFO")
    project("mine/a.csv", "mine/test.csv")
    assert found(source="mine") == [("mine/a.csv", "train"), ("mine/test.csv", "test")]
    assert "taken as training data, because their names say no split: a.csv" in caplog.text


def test_only_held_out_files_are_not_taken_as_splits(project):
    project("mine/test-0.csv", "mine/test-1.csv")
    assert {split for _, split in found(source="mine")} == {""}


def test_files_of_another_format_are_named(project, caplog):
    project("mine/a.csv", "mine/b.csv", "mine/c.json", "mine/d.pkl")
    assert len(found(source="mine")) == 2
    assert "not read: c.json" in caplog.text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jsonl", "sub/b.jsonl", "dataset_infos.json", "README.md"], ["a.jsonl", "sub/b.jsonl"]),
        (["dataset_info.json", "state.json", "a.parquet"], ["a.parquet"]),
        (["a.csv", "b.csv", "a.parquet"], ["a.csv", "b.csv"]),  # the most frequent
        (["a.csv", "a.json", "a.jsonl", "a.parquet"], ["a.parquet"]),  # all as frequent: the same data, several times
        (["b.JSON", "a.json"], ["a.json", "b.JSON"]),
        (["a.jsonl.gz", "b.jsonl.zst", "c.csv"], ["a.jsonl.gz", "b.jsonl.zst"]),
    ],
)
def test_the_data_files_of_a_folder(project, names, expected):
    project(*(f"mine/{name}" for name in names))
    assert [path for path, _ in found(source="mine")] == [f"mine/{name}" for name in expected]


def test_lists_and_globs(project):
    project("d/a.csv", "d/b.csv", "d/sub/c.csv", "e.jsonl")
    assert found(source=["d/b.csv", "e.jsonl"]) == [("d/b.csv", ""), ("e.jsonl", "")]
    assert found(source="d/*.csv") == [("d/a.csv", ""), ("d/b.csv", "")]
    assert len(found(source="d/**/*.csv")) == 3
    keys = [file.key for file in source_files(settings(source=["d/b.csv", "e.jsonl"]))]
    assert keys == ["d/b.csv", "e.jsonl"]


def test_named_splits(project):
    project("a.csv", "b.csv")
    assert found(source=None, splits={"train": "a.csv", "test": "b.csv"}) == [("a.csv", "train"), ("b.csv", "test")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"source": "none.csv"}, r"none\.csv does not exist"),
        ({"source": "none/*.csv"}, r"No file matches none/\*\.csv"),
        ({"source": "empty"}, "empty holds no file of a known format; it has a.pkl"),
        ({"source": ["d.csv", "d.csv"]}, r"names d\.csv more than once"),
        (
            {"source": None, "splits": {"train": "d.csv", "test": "none.csv"}},
            r"none\.csv does not exist.*data\.splits\.test",
        ),
    ],
)
def test_what_is_not_there_is_named(project, source, message):
    project("empty/a.pkl", "d.csv")
    with pytest.raises(MissingInputError, match=message):
        found(**source)


def hub(project, *names: str, card: str = "", files: str | None = None):
    folder = f"data/raw/datasets/owner--name-{'0' * 8}"
    project(f"{folder}/provenance.json", f"{folder}/README.md", *(f"{folder}/{name}" for name in names))
    config = settings(source="owner/name", revision="0" * 40, files=files)
    (config.dataset_dir / "README.md").write_text(card)
    return source_files(config)


def test_a_hub_dataset_keeps_its_own_splits(project):
    files = hub(project, "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    assert [(file.key, file.split) for file in files] == [
        ("data/test-00000-of-00001.parquet", "test"),
        ("data/train-00000-of-00001.parquet", "train"),
    ]


CARD = (
    "---\nconfigs:\n- config_name: main\n  data_files: main/*\n- config_name: socratic\n  data_files: socratic/*\n---\n"
)


@pytest.mark.parametrize("card", ["", CARD])
def test_several_configs_of_a_hub_dataset_are_a_warning(project, caplog, card):
    hub(project, "main/train.parquet", "socratic/train.parquet", card=card)
    assert "has several configs, and all are read together: main, socratic. To read one, set data.files" in caplog.text


def test_one_config_is_no_warning(project, caplog):
    hub(project, "main/train.parquet", "main/test.parquet", card=CARD, files="main/*")
    hub(project, "data/train.parquet", "data/test.parquet")
    assert not caplog.text


def test_a_hub_dataset_that_was_not_fetched(project):
    with pytest.raises(MissingInputError, match="make fetch"):
        source_files(settings(source="owner/name", revision="0" * 40))


@pytest.mark.parametrize("text", ["", "no front matter", "---\n[\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n"])
def test_a_card_without_configs(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert card_configs(tmp_path / "README.md") == []
