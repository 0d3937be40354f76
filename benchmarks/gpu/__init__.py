"""GPU steps against the limits of memory and matrix units, and requests against `transformers`."""
