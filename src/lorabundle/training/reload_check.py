"""Load a base model and an adapter in this process alone and write their logits: the check that a saved adapter is whole.

Run as: python -m lorabundle.training.reload_check MODEL_DIR ADAPTER_DIR OUTPUT.safetensors DTYPE ATTENTION 4BIT ID,ID,...
"""

import subprocess
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorabundle.compute import numerics
from lorabundle.compute.load import from_folder, load_adapter, resolve_attention
from lorabundle.core.config import Config
from lorabundle.core.errors import AdapterError, LorabundleError


def reload_in_new_process(run_config: Config, adapter: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> float:
    """Load the saved adapter in a fresh interpreter and compare its logits with those of the trained model.

    Returns the largest absolute difference.

    Raises:
        AdapterError: it does not load, or its logits are not those of the trained model.
    """
    output = adapter.with_name(".reload.safetensors")
    model = run_config.model
    command = [
        sys.executable,
        "-m",
        "lorabundle.training.reload_check",
        str(run_config.model_dir),
        str(adapter),
        str(output),
    ]
    command += [str(logits.dtype).removeprefix("torch."), resolve_attention(model.attn_implementation)]
    command += [str(model.load_in_4bit), ",".join(map(str, input_ids[0].tolist()))]
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0:
            reason = " ".join(finished.stderr.strip().splitlines()[-1:]) or "it said nothing; was it out of memory?"
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
            f"and {tolerance:.3g} is what rounding explains. Please report this with the run's log."
        )
    return difference


@torch.no_grad()
def plain_logits(model: PeftModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits (batch, length, vocabulary) in the weights' own dtype.

    Below the outermost `forward`, which a trainer may have wrapped in autocast and a fused head.
    """
    base = model.get_base_model()
    return base.lm_head(base.model(input_ids=input_ids, use_cache=False).last_hidden_state)


def main(model_dir: str, adapter_dir: str, output: str, dtype: str, attention: str, load_in_4bit: str, ids: str) -> int:
    """Write {"logits": (1, length, vocabulary)} for the token ids."""
    numerics.use_kernels()
    base, _ = from_folder(Path(model_dir), getattr(torch, dtype), attention, load_in_4bit == "True")
    try:
        model = load_adapter(base.eval(), Path(adapter_dir))
    except LorabundleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    logits = plain_logits(model, torch.tensor([[int(token) for token in ids.split(",")]]))
    save_file({"logits": logits.contiguous()}, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
