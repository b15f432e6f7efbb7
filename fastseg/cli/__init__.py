"""The command line: ``fastseg info``, ``fastseg demo``, ``fastseg bench``."""
