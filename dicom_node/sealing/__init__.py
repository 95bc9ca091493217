"""Stored files, encrypted at rest by option (S6): sealing, opening, keys, bringing what is stored up to date."""
