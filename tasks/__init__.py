"""One thin `python -m tasks.NAME` each: compose the configuration, call the library, write."""
