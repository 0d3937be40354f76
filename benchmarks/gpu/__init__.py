"""A step on a GPU over what its memory and its matrix units allow, and requests beside `transformers`."""
