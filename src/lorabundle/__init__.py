"""lorabundle: LoRA fine-tuning of Phi-3-family models on a CPU, from pinned inputs to a submission tarball."""

from lorabundle.core import before_torch as before_torch
