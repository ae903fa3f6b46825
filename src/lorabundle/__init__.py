"""lorabundle: LoRA fine-tuning of Phi-3-family models on a CPU, from pinned inputs to a submission tarball."""

import logging
import os
import sys

# Fetch is the only stage that may use the network. The Hugging Face libraries read these variables once, when they are
# first imported, so this is the one place that comes early enough.
if "lorabundle.fetch" not in sys.orig_argv:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# So do torch's libraries with these, which keep each to the instructions and the order of sums that all CPUs with AVX2 have
if os.environ.get("NUMERICS") == "portable":
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # rows are tokenised in one process; silences a fork warning
# Where it is imported on a CPU, it advises about kernels from a hub
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
