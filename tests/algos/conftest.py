"""One thread per matrix product, as in training: on busy cores threads wait for each other longer than they work."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
