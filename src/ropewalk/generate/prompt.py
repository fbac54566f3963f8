"""A prompt or a document with questions, as the tokens that a model is given."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError
from ropewalk.generate.request import GenerateRequest
from ropewalk.models.files import first_line

MARK = "\u2063question\u2063"  # stands where a question will
PLAIN_STOP = "\nQuestion:"  # where a model without a chat template goes on to ask itself


class Prompt(NamedTuple):
    """What all answers share, and what each begins with."""

    shared: Tensor  # Int[T]
    parts: tuple[Tensor, ...]  # Int[t] for each question; none where there are no questions
    stop: tuple[str, ...]  # strings that end an answer


def tokens_of(request: GenerateRequest, tokenizer: Any) -> Prompt:
    """The prompt, with the chat template if asked for; a question follows the document in the same message.

    Raises ConfigError where there is no template, or for a prompt that comes to no token.
    """
    chat = request.chat if request.chat is not None else bool(request.questions and tokenizer.chat_template)
    if chat and not tokenizer.chat_template:
        raise ConfigError(f"--chat needs a chat template, and the tokenizer of {request.model} has none")
    if not request.questions:
        text = rendered(request.prompt, tokenizer) if chat else request.prompt
        return Prompt(nonempty(tokenizer, text, not chat), (), ())
    if chat:
        before, _, after = rendered(f"{request.prompt}\n\n{MARK}", tokenizer).rpartition(MARK)
    else:
        before, after = f"{request.prompt}\n\nQuestion: ", "\nAnswer:"
    parts = tuple(nonempty(tokenizer, f"{q}{after}", False) for q in request.questions)
    return Prompt(nonempty(tokenizer, before, not chat), parts, () if chat else (PLAIN_STOP,))


def rendered(message: str, tokenizer: Any) -> str:
    """A conversation of that one message, up to where the model is to answer."""
    turns = [{"role": "user", "content": message}]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # a template is a program, and fails in its own way
    except Exception as error:
        raise ConfigError(f"the tokenizer's chat template cannot be applied: {first_line(error)}") from error


def nonempty(tokenizer: Any, text: str, special: bool) -> Tensor:
    """Int[T]: the tokens of a text, with those that begin every text if `special`."""
    ids = tokenizer(text, add_special_tokens=special).input_ids
    if not ids:
        raise ConfigError(f"the prompt must come to at least one token, got {text!r}")
    return torch.tensor(ids)
