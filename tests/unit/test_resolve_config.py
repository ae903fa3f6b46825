"""The command that resolves a config for make."""

from pathlib import Path

import pytest
import yaml

from lorabundle import resolve_config


def test_writes_the_resolved_config_and_its_sections(workspace):
    assert resolve_config.main(["--config", "config/smoke.yaml", "--set", "lora.r=2"]) == 0
    assert yaml.safe_load(Path("outputs/smoke/config.yaml").read_text())["lora"]["r"] == 2
    assert Path("outputs/smoke/.sections/lora.yaml").read_text().startswith("lora:\n  r: 2\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lora.r=0"], "config: error: config/smoke.yaml with lora.r=0 has 1 problem: lora.r: "),
        (["--make-reads", "run=other"], "config: error: config/smoke.yaml: run is 'smoke', but make, "),
    ],
)
def test_a_wrong_config_writes_nothing(workspace, capsys, arguments, message):
    assert resolve_config.main(["--config", "config/smoke.yaml", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not Path("outputs").exists()
