"""SIREN for vinr."""
