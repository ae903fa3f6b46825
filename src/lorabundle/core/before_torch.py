"""Settings of the libraries that must be made before they are first imported. Importing this module makes them.

The Hugging Face libraries, torch, oneDNN and MKL read these environment variables once, when they are loaded, so
`lorabundle/__init__.py` imports this before anything else. No other module here does anything when it is imported.
"""

import logging
import os
import sys

from lorabundle.core import machine

# Fetch is the only stage that may use the network
if "lorabundle.fetch" not in sys.orig_argv:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Keeps each library to the instructions, and the order of sums, that all CPUs with AVX2 have in common
if os.environ.get("NUMERICS") == "portable":
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
# Without it, libraries start a thread for each core, also where a control group gives less CPU time than that
if (threads := machine.threads().amount) < machine.cores():
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # rows are tokenised in one process; silences a fork warning
# When it is imported on a CPU, it recommends kernels from a hub
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
