"""The check that a saved adapter is complete: a new process loads it, and its logits must be those of the trained model.

Run as: python -m lorabundle.training.reload_check REQUEST   (JSON with the fields of `Request`)
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorabundle.compute import numerics, precision
from lorabundle.compute.load import from_folder, load_adapter, resolve_attention
from lorabundle.core.config import Config
from lorabundle.core.errors import AdapterError, LorabundleError


@dataclass(frozen=True)
class Request:
    """What the new process loads and computes."""

    model_dir: str
    adapter_dir: str
    formats: dict  # the fields of `Precision`
    attn_implementation: str  # "eager" or "sdpa"
    input_ids: list[int]  # of one sequence
    output: str  # file for {"logits": (1, length, vocabulary)}


def reload_in_new_process(run_config: Config, adapter: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> float:
    """Load the saved adapter in a new process and compare its logits with those of the trained model.

    Args:
        run_config: of the training.
        adapter: folder of the saved adapter.
        input_ids: (1, length).
        logits: (1, length, vocabulary) that the trained model gives for them, see `plain_logits`.

    Returns the largest absolute difference.

    Raises:
        AdapterError: the adapter does not load, or its logits are not those of the trained model.
    """
    output = adapter.with_name(".reload.safetensors")
    request = Request(
        model_dir=str(run_config.model_dir),
        adapter_dir=str(adapter),
        formats=asdict(precision.resolve(run_config)),
        attn_implementation=resolve_attention(run_config.model.attn_implementation),
        input_ids=input_ids[0].tolist(),
        output=str(output),
    )
    command = [sys.executable, "-m", "lorabundle.training.reload_check", json.dumps(asdict(request))]
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0:
            lines = finished.stderr.strip().splitlines()
            reason = lines[-1] if lines else "it gave no reason; was it out of memory?"
            raise AdapterError(
                f"The adapter just saved in {adapter} does not load in a new process (exit code {finished.returncode}): {reason}"
            )
        difference = (load_file(output)["logits"] - logits).abs().max().item()
    finally:
        output.unlink(missing_ok=True)
    relative = 1e-4 if logits.dtype is torch.float32 else 2e-2  # what rounding explains; measured: 0.0
    tolerance = logits.float().abs().max().item() * relative
    if not difference <= tolerance:
        raise AdapterError(
            f"The adapter just saved in {adapter} gives other logits in a new process: they differ by up to {difference:.3g}, "
            f"and rounding explains only {tolerance:.3g}. Please report this with the run's log."
        )
    return difference


@torch.no_grad()
def plain_logits(model: PeftModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits (batch, length, vocabulary) in the dtype of the states.

    Calls the parts of the model, because a trainer may have wrapped its outermost `forward` in autocast.
    """
    base = model.get_base_model()
    return base.lm_head(base.model(input_ids=input_ids, use_cache=False).last_hidden_state)


def main(request: Request) -> int:
    """Load the base model and the adapter, and write their logits; returns the exit code."""
    numerics.use_kernels()
    formats = precision.Precision(**request.formats)
    base, _ = from_folder(Path(request.model_dir), formats, request.attn_implementation)
    try:
        model = load_adapter(base.eval(), Path(request.adapter_dir))
    except LorabundleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    logits = plain_logits(model, torch.tensor([request.input_ids]))
    save_file({"logits": logits.contiguous()}, request.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(Request(**json.loads(sys.argv[1]))))
