"""Load a base model and an adapter in this process alone and write their logits: the check that a saved adapter is whole.

Run as: python -m lorabundle.reload MODEL_DIR ADAPTER_DIR OUTPUT.safetensors DTYPE ATTENTION 4BIT ID,ID,...
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file

from lorabundle import numerics
from lorabundle.errors import LorabundleError
from lorabundle.modeling import from_folder, load_adapter


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
