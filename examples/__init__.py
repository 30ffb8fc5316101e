"""Programs that use the library, to be run from a clone."""
