"""Keeps the libraries underneath from writing to the terminal."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet() -> Generator[None]:
    """No progress bars, log lines below errors, or warnings from transformers and the hub's client inside the block."""
    import huggingface_hub.utils as hub
    import transformers.utils.logging as transformers

    level, bars = transformers.get_verbosity(), transformers.is_progress_bar_enabled()
    log, hub_bars = logging.getLogger("huggingface_hub"), not hub.are_progress_bars_disabled()
    log_level = log.level
    transformers.set_verbosity(logging.CRITICAL)
    transformers.disable_progress_bar()
    hub.disable_progress_bars()
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.set_verbosity(level)
        log.setLevel(log_level)
        if bars:
            transformers.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
