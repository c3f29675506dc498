"""Coordinated Policy Optimization and its baselines on one parameter-shared PPO."""
