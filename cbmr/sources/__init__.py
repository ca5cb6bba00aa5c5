"""One adapter a file: something in the world becomes a corpus."""
