"""The command-line program `pdserve`."""

from cli.shadowing import refuse_foreign_packages

refuse_foreign_packages()  # must run before the commands import any of these packages
