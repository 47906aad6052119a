"""How the shipped checkpoint was made: one module a stage, run by ``python -m starter.NAME``."""
