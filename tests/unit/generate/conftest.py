"""A random Llama with a byte-level tokenizer, so that characters fall apart into tokens."""

import pytest

from ropewalk.models.load import Loaded, load
from tiny import save_llama, save_tokenizer

PROSE = "The rope is laid, the strands are twisted — naïve façade, œuvre, 東京と京都, 🙂🙃 and so it goes on. " * 20


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("generate") / "tiny"
    save_llama(folder, vocab_size=320, window=512, initializer_range=0.3, eos_token_id=1, bos_token_id=None)
    save_tokenizer(folder, [PROSE], vocab_size=320)
    return load(folder, "float32")
