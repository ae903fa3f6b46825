"""How far two runs of one config with fast numerics may be apart on machines that differ."""

TOLERANCES: dict[str, float] = {
    "loss": 0.01,
}
