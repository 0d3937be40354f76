"""Engine of one worker, shared by both roles: model, KV memory, step, sampling (build.py builds it)."""
