"""docker/run.sh: what a stage is given, in a container and in .venv. The engines are stand-ins."""

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, git
from tests.unit.docker import engines
from tests.unit.docker.engines import answer, container, place, run, values


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "the project"
    engines.make_project(folder)
    monkeypatch.chdir(folder)
    return folder


def mounts(options: list[str]) -> dict[str, bool]:
    """The paths that a container has as they are here, and whether each is read-only."""
    found = {}
    for value in values(options, "--mount"):
        kind, source, target, *readonly = value.split(",")
        assert kind == "type=bind"
        assert source.removeprefix("source=") == target.removeprefix("target=")
        found[target.removeprefix("target=")] = readonly == ["readonly"]
    return found


def variables(options: list[str]) -> dict[str, str | None]:
    """The environment of a container; None where it passes the caller's variable on."""
    return {
        name: value if equals else None for name, equals, value in (v.partition("=") for v in values(options, "--env"))
    }


def test_container_is_held_tight(project):
    options = container("python", "-m", "lorabundle.train", THREADS="2")
    for option in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--rm"):
        assert option in options
    assert values(options, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    writable = {f"{project}/{name}": False for name in ("data", "outputs", "reports", "archive")}
    assert mounts(options) == {str(project): True} | writable
    assert values(options, "--workdir") == [str(project)]
    environment = variables(options)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["LORABUNDLE_ENGINE"] == "docker"
    assert environment["LORABUNDLE_IMAGE"] == "lorabundle:abc, content sha256:4567"
    assert environment["PYTHONPATH"] == f"{project}/src"
    assert options[-4:] == ["sha256:0123", "python", "-m", "lorabundle.train"]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < int(values(options, "--memory")[0].removesuffix("k")) * 1024 < total
    assert int(values(options, "--pids-limit")[0]) > 0


def test_only_fetch_gets_the_network(project):
    assert "--network=none" in container()
    assert not [option for option in container(NETWORK="1") if option.startswith("--network")]
    makefile = (ROOT / "Makefile").read_text()
    assert [line.split()[-1] for line in makefile.splitlines() if "NETWORK=1" in line] == ["stage,fetch)"]


# --- engines as people have them ---------------------------------------------------------------------------------------


def test_selinux_is_told_to_allow_the_mounts_where_it_enforces(project):
    assert "label=disable" not in container()
    place(Path("bin/getenforce"), "#!/bin/sh\necho Enforcing\n")
    assert values(container(), "--security-opt") == ["label=disable"]
    place(Path("bin/getenforce"), "#!/bin/sh\necho Permissive\n")
    assert "label=disable" not in container()


def test_in_rootless_docker_root_is_the_caller(project):
    answer("docker", "linux x86_64 [name=seccomp,profile=default name=rootless]")
    options = run("bash", "docker/run.sh", "true", ENGINE="docker").stdout.splitlines()
    assert values(options, "--user") == ["0:0"]


def test_podman_keeps_the_callers_id_under_either_name(project):
    place(Path("bin/id"), "#!/bin/sh\necho 1000\n")
    assert "--userns=keep-id" not in container()
    Path("bin/docker.version").write_text("podman version 4.9.4\n")
    answer("docker", "linux amd64")
    answer("podman")
    for engine in ("docker", "podman"):
        options = run("bash", "docker/run.sh", "true", ENGINE=engine).stdout.splitlines()
        assert "--userns=keep-id" in options
        assert values(options, "--user") == ["1000:1000"]


def test_limits_that_the_engine_cannot_set_are_left_out(project):
    with Path("docker/.image-docker").open("a") as file:
        file.write("without limits\n")
    options = container()
    assert "--memory" not in options
    assert "--pids-limit" not in options
    assert "--read-only" in options


def test_a_machine_without_proc_has_no_limit_on_memory(project):
    script = Path("docker/run.sh")
    script.write_text(script.read_text().replace("/proc/meminfo", "/nonexistent/meminfo"))
    assert "--memory" not in container()


# --- the user's own files ----------------------------------------------------------------------------------------------


def test_files_outside_the_project_are_mounted_where_they_are(project, tmp_path):
    for name in ("mine.jsonl", "folder/a.csv", "folder/b.csv", "glob1.csv", "glob2.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    Path("data").mkdir()
    Path("data/inside.csv").touch()
    reads = f"data/inside.csv ../mine.jsonl {tmp_path}/folder {tmp_path}/glob*.csv /nonexistent.csv config/default.yaml"
    found = mounts(container(READS=reads))
    own = {f"{tmp_path}/{name}" for name in ("mine.jsonl", "folder", "glob1.csv", "glob2.csv")}
    assert {path for path in found if not path.startswith(str(project))} == own
    assert all(found[path] for path in own)  # read-only


def test_what_a_link_leads_to_is_mounted_too(project, tmp_path):
    big, hub = tmp_path / "big", tmp_path / "hub"
    for folder in (big, hub / "blobs", hub / "snapshots/abc", project / "data"):
        folder.mkdir(parents=True)
    (big / "real.jsonl").touch()
    (tmp_path / "second").symlink_to("big/real.jsonl")
    Path("data/mine.jsonl").symlink_to(tmp_path / "second")
    (hub / "blobs/0123").touch()
    (hub / "snapshots/abc/model.safetensors").symlink_to("../../blobs/0123")
    found = mounts(container(READS=f"data/mine.jsonl {hub}/snapshots/abc"))
    outside = {path for path in found if not path.startswith(str(project))}
    expected = ("second", "big/real.jsonl", "hub/snapshots/abc", "hub/blobs/0123")
    assert outside == {f"{tmp_path}/{name}" for name in expected}


def test_a_folder_that_search_paths_cannot_hold_is_refused(tmp_path, monkeypatch):
    engines.make_project(tmp_path / "a:b")
    monkeypatch.chdir(tmp_path / "a:b")
    finished = run("bash", "docker/run.sh", "true", ENGINE="venv")
    assert finished.returncode == 2
    assert "has a colon, a comma or a quotation mark" in finished.stderr


# --- network at work ---------------------------------------------------------------------------------------------------


def test_fetch_has_the_callers_network_settings_and_a_stage_has_none(project):
    given = {
        "HF_ENDPOINT": "https://mirror.example",
        "HTTPS_PROXY": "http://p.example:3128",
        "no_proxy": "x.example",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "HF_HUB_CACHE": "/home/someone/cache",
        "HF_TOKEN": "secret",
    }
    passed = variables(container(NETWORK="1", **given))
    assert {name for name in given if name in passed and passed[name] is None} == given.keys() - {"HF_HUB_CACHE"}
    assert passed["HF_HOME"] == f"{project}/data/raw/hub"
    assert not set(given) & set(variables(container(**given)))


def test_certificates_of_the_host_or_of_the_user(project, tmp_path):
    (tmp_path / "own.pem").touch()
    options = container(NETWORK="1", SSL_CERT_FILE="", REQUESTS_CA_BUNDLE=f"{tmp_path}/own.pem")
    place_there = "/etc/ssl/authorities.pem"
    assert f"type=bind,source={tmp_path}/own.pem,target={place_there},readonly" in options
    assert variables(options)["SSL_CERT_FILE"] == place_there
    script = Path("docker/run.sh")
    for missing in ("/etc/ssl/certs/ca-certificates.crt ", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"):
        script.write_text(script.read_text().replace(missing, "/nonexistent "))
    (tmp_path / "fedora.crt").touch()
    script.write_text(script.read_text().replace("/etc/pki/tls/certs/ca-bundle.crt", f"{tmp_path}/fedora.crt"))
    options = container(NETWORK="1", SSL_CERT_FILE="", REQUESTS_CA_BUNDLE="")
    assert f"type=bind,source={tmp_path}/fedora.crt,target={place_there},readonly" in options


@pytest.mark.parametrize(
    ("name", "value", "is_here"),
    [
        ("https_proxy", "http://127.0.0.1:3128", True),
        ("HTTPS_PROXY", "http://user:word@localhost:3128", True),
        ("HF_ENDPOINT", "http://localhost:8000", True),
        ("https_proxy", "http://localhost.example:3128", False),
    ],
)
def test_a_proxy_on_this_machine_is_reached(project, name, value, is_here):
    clean = {
        n: ""
        for n in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT")
    }
    options = container(NETWORK="1", **clean | {name: value})
    assert ("--network=host" in options) == is_here


# --- .venv -------------------------------------------------------------------------------------------------------------


def venv_prints(script: str, *arguments: str, **environment: str) -> str:
    place(Path(".venv/bin/python"), f"#!/bin/sh\n{script}\n")
    finished = run("bash", "docker/run.sh", "python", *arguments, ENGINE="venv", **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_venv_runs_with_the_locked_python_first(project):
    printed = venv_prints("echo $LORABUNDLE_ENGINE $PYTHONPATH $PYTHONUTF8 $*", "-m", "lorabundle.train")
    assert printed == f"venv {project}/src 1 -m lorabundle.train\n"


def test_venv_runs_with_the_locked_openmp_runtime(project):
    printed = venv_prints(
        "echo $LD_LIBRARY_PATH $LD_PRELOAD $KMP_BLOCKTIME $KMP_TOPOLOGY_METHOD", LD_LIBRARY_PATH="/theirs"
    )
    assert printed == f"{project}/.venv/openmp:/theirs libomp.so 1 flat\n"


def commit(**environment: str) -> str:
    return venv_prints("echo $LORABUNDLE_COMMIT", **environment).strip()


def test_commit_of_the_code_that_runs(project):
    assert commit() == "not a git checkout"
    git("init", "-q")
    assert commit() == "not a git checkout"  # nothing committed yet
    git("add", "-f", ".")
    git("commit", "-qm", "one")
    assert commit() == git("rev-parse", "HEAD")
    Path("Makefile").write_text("# changed\n")
    assert commit() == git("rev-parse", "HEAD") + ", with uncommitted changes"


def test_a_copy_inside_another_repository_is_not_its_commit(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("commit", "-qm", "outer", "--allow-empty")
    monkeypatch.chdir(project)
    assert commit() == "not a git checkout"


def test_a_worktree_and_a_linked_path_have_their_commit(project, tmp_path, monkeypatch):
    git("init", "-q")
    git("add", "-f", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    (tmp_path / "link").symlink_to(project)
    monkeypatch.chdir(tmp_path / "link")
    place(project / ".git/info/exclude", ".venv\n")
    assert commit().split(",")[0] == head
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    monkeypatch.chdir(tmp_path / "tree")
    assert commit().split(",")[0] == head


def test_a_checkout_of_another_owner_says_why_there_is_no_commit(project):
    place(Path("bin/git"), "#!/bin/sh\necho \"fatal: detected dubious ownership in repository at 'x'\" >&2\nexit 128\n")
    assert commit() == (
        f"unknown (git does not read a folder of another owner: git config --global --add safe.directory '{project}')"
    )


@pytest.mark.parametrize("threads", ["abc", "0", "-1", "1.5"])
def test_threads_must_be_a_number(project, threads):
    finished = run("bash", "docker/run.sh", "true", ENGINE="venv", THREADS=threads)
    assert finished.returncode == 2
    assert f"THREADS is '{threads}'" in finished.stderr


def test_variables_of_common_names_choose_no_image(project):
    """A user's shell may have them for purposes of its own."""
    theirs, ours = container(DEV="1", IMAGE="theirs:1", WRITES="/etc", LIMITS="none"), container()
    for options in (theirs, ours):
        options.remove(values(options, "--memory")[0])  # what is free changes from one moment to the next
    assert theirs == ours


def test_what_a_script_needs_to_know_does_not_reach_the_command(project):
    """Else a test that runs the scripts would have it too."""
    assert "RUN_DEV=1" not in run("bash", "docker/run.sh", "env", ENGINE="venv", RUN_DEV="1").stdout.splitlines()


def test_tests_have_an_image_of_their_own_and_know_whether_a_sample_will_do(project):
    Path("docker/.image-docker-dev").write_text("sha256:9999\nlorabundle-dev:abc, content sha256:4567\n")
    options = container(RUN_DEV="1", QUICK="1")
    assert options[-2:] == ["sha256:9999", "true"]
    assert "QUICK" in values(options, "--env")
    assert "QUICK" not in values(container(QUICK="1"), "--env")
