"""Variants of the core: each changes one of its callables."""
