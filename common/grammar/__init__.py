"""Grammars of structured output: compiler, matchers and masks. The only importer of llguidance."""
