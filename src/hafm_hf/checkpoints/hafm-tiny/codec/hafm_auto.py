"""Lets transformers find the classes and the task: importing hafm_hf registers them."""

from hafm_hf import *  # noqa: F403
