"""The command line."""

from cli.shadowing import refuse_foreign_packages

refuse_foreign_packages()  # before the commands import any of them
