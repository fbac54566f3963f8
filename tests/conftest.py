"""Settings for every test; being here also makes `tests/` importable."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
# the same examples in every run, and no clock: a shared machine may be slow
settings.register_profile("ropewalk", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ropewalk")
