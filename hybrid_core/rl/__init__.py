"""Reinforcement learning over recipes: small networks trained on what this run itself measured."""
