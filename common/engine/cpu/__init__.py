"""Kernels for the CPU, compiled by numba for the machine they run on."""
