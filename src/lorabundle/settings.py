"""Check a config file and write its resolved form, which make's rules depend on.

Writes `outputs/<run>/config.yaml` and one file a section under `outputs/<run>/.sections/`, each only if its content changed.

Run as: python -m lorabundle.settings --config config/default.yaml [--set key=value ...] [--make-reads key=value ...]
"""

import argparse
import sys

from lorabundle.core.config_file import add_arguments, check_as_make_reads, load_config, write_resolved
from lorabundle.core.errors import LorabundleError


def main() -> int:
    """Resolve a config for make."""
    parser = argparse.ArgumentParser(description="Validate a config and write its resolved form.")
    add_arguments(parser)
    parser.add_argument(
        "--make-reads", nargs="*", default=[], metavar="KEY=VALUE", help="what docker/read_config.sh says"
    )
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.set)
        check_as_make_reads(config, arguments.config, arguments.make_reads)
        write_resolved(config)
    except LorabundleError as error:
        print(f"config: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
