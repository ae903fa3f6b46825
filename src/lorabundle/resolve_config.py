"""Check a config file and write its resolved form, which make's rules depend on.

Writes `outputs/<run>/config.yaml` and one file a section under `outputs/<run>/.sections/`, each only if its content changed.

Run as: python -m lorabundle.resolve_config --config config/default.yaml [--set key=value ...] [--make-reads key=value ...]
"""

import sys

from lorabundle.core.command import command_parser, run_command
from lorabundle.core.config_file import add_arguments, check_as_make_reads, load_config, write_resolved


def main(argv: list[str] | None = None) -> int:
    """Resolve a config for make."""
    parser = command_parser("resolve_config", __doc__)
    add_arguments(parser)
    parser.add_argument(
        "--make-reads", nargs="*", default=[], metavar="KEY=VALUE", help="what docker/read_config.sh says"
    )
    arguments = parser.parse_args(argv)

    def work() -> None:
        config = load_config(arguments.config, arguments.set)
        check_as_make_reads(config, arguments.config, arguments.make_reads)
        write_resolved(config)

    return run_command("config", work, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
