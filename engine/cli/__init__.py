"""The command line: a thin client of the local API, and the verbs that need no running platform.

One file per verb group. Exit codes: 0 done, 1 refused or failed, 2 wrong use. `--json` writes one JSON document to
standard output, errors too; for people there are tables, and what to do next.
"""
