"""One exception per cause of failure.

Each message is one paragraph that says what failed, where (file:line, row or key), and what to do. `exit_code` is what a
command returns: 1 if a run failed, 2 if the config or the input is wrong, 3 if an archive is not what it says.
"""


class LorabundleError(Exception):
    """Base of every error that a stage reports without a traceback."""

    exit_code = 1


class ConfigError(LorabundleError):
    """A config file or a `--set` value is unknown, of the wrong type, or inconsistent; lists every problem at once."""

    exit_code = 2


class MissingInputError(LorabundleError):
    """A file that an earlier stage or the user should have provided is missing."""

    exit_code = 2


class MalformedInputError(LorabundleError):
    """A file exists but its content cannot be parsed."""

    exit_code = 2


class ColumnError(LorabundleError):
    """A dataset's columns match none of the known shapes, or not those that the config names."""

    exit_code = 2


class RowError(LorabundleError):
    """Rows of a dataset cannot be used: text is missing, of the wrong type or not clean, or roles are out of order."""

    exit_code = 2


class EmptySplitError(LorabundleError):
    """A split has no example left."""

    exit_code = 2


class NoSupervisedTokensError(LorabundleError):
    """Examples carry no token to learn from, so the loss would be 0/0."""

    exit_code = 2


class TemplateError(LorabundleError):
    """The tokenizer has no chat template, or one that leaves a message out or hides where a response starts."""

    exit_code = 2


class RowTemplateError(TemplateError):
    """One row cannot be rendered by the chat template, or read by the tokenizer; others may be fine."""


class HashMismatchError(LorabundleError):
    """A file's sha256 is not the one in the lock, on the hub or in a stage's record."""

    exit_code = 2


class ModelFormatError(LorabundleError):
    """Model weights or config cannot be read as a Phi-3-family model."""

    exit_code = 2


class NetworkError(LorabundleError):
    """A download failed: no network, or the remote does not have the pinned file."""


class OutputError(LorabundleError):
    """A result cannot be written (permissions, disk full)."""


class AdapterError(LorabundleError):
    """A saved adapter does not reload to the model that was trained."""


class DivergenceError(LorabundleError):
    """Training produced a loss or a gradient that is not finite."""


class NumericsError(LorabundleError):
    """The machine, or the process, computes differently from what the config asks for."""


class ImplausibleLossError(LorabundleError):
    """The base model scores worse than guessing uniformly over the vocabulary."""


class MemoryExhaustedError(LorabundleError):
    """The machine has too little memory for the settings."""


class InterruptedStageError(LorabundleError):
    """The stage was stopped by a signal; earlier results are intact."""


class UnsafeArchiveError(LorabundleError):
    """A submission cannot be read to its end, or holds entries that could lead outside its folder."""

    exit_code = 3
