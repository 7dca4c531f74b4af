"""The papers' tables and figures as recipes: run at full scale or reduced, and compared with what is printed.

``recipe`` reads ``recipes/*.toml``; ``run`` turns a recipe into jobs and keeps what each of them measured;
``experiments`` measure; ``report`` writes paper | ours | difference.
"""
