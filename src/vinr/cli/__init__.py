"""The command line: one short function per command, and what it prints."""
