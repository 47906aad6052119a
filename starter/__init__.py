"""How the shipped checkpoint was made: one module a stage, each run as ``python -m starter.NAME``."""
