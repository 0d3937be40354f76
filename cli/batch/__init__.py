"""A file of prompts: its lines, their answers, and sending them."""
