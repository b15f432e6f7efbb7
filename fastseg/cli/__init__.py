"""The command line: ``fastseg info``, ``demo``, ``bench`` and ``evaluate``."""
