"""Recordings of commands in a terminal, and their pictures for the documents."""
