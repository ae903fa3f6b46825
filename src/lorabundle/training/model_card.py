"""The adapter's model card, `adapter/README.md`. It follows from the run's files, so that `verify` can rebuild and compare it."""

from lorabundle.core.config import TRAINING_SECTIONS, Config
from lorabundle.core.config_file import dump_yaml


def model_card(run_config: Config, manifest: dict, val_loss: float) -> str:
    """What the adapter is, what it was trained on, how to load it.

    Args:
        run_config: as the user gave it, before what memory allows is decided.
        manifest: of the splits.
        val_loss: at the end of training, in nats a response token.
    """
    train = manifest["splits"]["train"]
    return f"""---
base_model: {run_config.model.name}
library_name: peft
tags: [lora, phi3]
---
# LoRA adapter of run {run_config.run}

An adapter (rank {run_config.lora.r}) for `{run_config.model.name}`, trained on {train["examples"]} examples
({train["response_tokens"]} response tokens) from {manifest["source"]}. Validation loss at the end: {val_loss:.4f} nats a token.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{run_config.model_dir}")
model = PeftModel.from_pretrained(base, "{run_config.adapter_dir}")
tokenizer = AutoTokenizer.from_pretrained("{run_config.adapter_dir}")
```

Settings of the training:

```yaml
{dump_yaml(run_config.model_dump(include=TRAINING_SECTIONS))}```
"""
