"""Kernels for the CPU, compiled by numba for the machine they run on. The only importer of numba.

Families, each tried against torch before its first use (engine/kernel_checks):
- attention: attention_kernel, with softmax, latent_tiles; kv_store (KV into blocks), kv_copy (KV that leaves)
- products: panel_matmul, with panel and activation; step_kernels (norms, rotary)
- sampling: sampling, with sampling_kernel, truncation_kernel and reduce; masking (grammars)
Words they are written in: emit (LLVM vector IR), vector (loads, sums), packed (two-byte numbers).
Compiling: target (which CPU), jit (the decorator), kernel_cache (on disk), linking (unknown symbols).
Around them: arrays (tensors as arrays), threads. docs/design/cpu-kernels.md explains how they work.
"""
