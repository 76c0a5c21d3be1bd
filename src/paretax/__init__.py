"""Joint, hardware-aware, multi-objective search for efficient JAX/Flax models."""
