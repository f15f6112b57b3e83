"""Whether a reference reads the tokens of another model's tokenizer as that model does."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from minordpo.data.tokens import TokenExample
from minordpo.errors import InputError

_COMPARED = 64  # examples whose text both tokenizers encode


def refuse_other_vocabulary(
    tokenizer: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase, *, model: str, name: str
) -> None:
    """Check that the reference reads each token of the model's tokenizer as the same text.

    Tokens that were added after training (a padding token, usually) may be missing in the reference.

    Raises:
        InputError: a token is another text, or missing.
    """
    known, added = reference.get_vocab(), tokenizer.get_added_vocab()
    other = sorted(
        (i, token)
        for token, i in tokenizer.get_vocab().items()
        if known.get(token, None if token in added else -1) not in (i, None)
    )
    if other:
        i, token = other[0]
        raise InputError(
            f"the reference {name} has another vocabulary than {model}: token {i} ({token!r}) of the model is "
            f"{known.get(token, 'unknown')} there. Name the model that it was tuned from."
        )


def refuse_other_encoding(
    tokenizer: PreTrainedTokenizerBase,
    reference: PreTrainedTokenizerBase,
    examples: Sequence[TokenExample],
    *,
    model: str,
    name: str,
) -> None:
    """Check that the reference's tokenizer gives the data the same tokens: other rules may stand over one vocabulary.

    Raises:
        InputError: the texts of an example are encoded otherwise, with its row.
    """
    refuse_other_vocabulary(tokenizer, reference, model=model, name=name)
    for place in range(0, len(examples), max(1, len(examples) // _COMPARED)):
        example = examples[place]
        for ids in (example.prompt_ids, *(response.ids for response in example.responses)):
            text = tokenizer.decode(ids.tolist())
            mine, theirs = (each.encode(text, add_special_tokens=False) for each in (tokenizer, reference))
            if mine != theirs:
                raise InputError(
                    f"the reference {name} encodes row {example.row} of the data into {len(theirs)} tokens and {model} "
                    f"into {len(mine)}, or into others: it would be asked about tokens that it does not write itself. "
                    "Name the model that it was tuned from, or one of the same family"
                )
