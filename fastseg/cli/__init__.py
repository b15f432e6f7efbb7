"""The command line; arguments.py lists the commands."""
