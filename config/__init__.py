"""The files a node ships with: the default configuration, which is also the reference, and examples."""
