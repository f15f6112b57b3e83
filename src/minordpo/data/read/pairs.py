"""TRL's rows of chosen and rejected responses, and UltraFeedback's → `Parts`."""

from __future__ import annotations

from minordpo.data.read.accounting import Tally
from minordpo.data.read.fields import Row, read_content, read_messages, read_text, shared_beginning, shorten
from minordpo.data.read.layout import Parts, layout, pair_parts, without_repetition
from minordpo.errors import InputError

IMPLICIT_TEXT_NOTE = (
    "the prompt is what both texts begin with, cut back to a whole word (or to the last 'Assistant:' of a "
    "Human/Assistant dialogue). Words that both responses begin with then count as prompt, and where the "
    "prompt ends changes MinorDPO, DPOP and KTO (not DPO). Give a prompt column to say where it ends"
)
SHARED_TURN_NOTE = (
    "the conversations part at a turn that is not the assistant's, so both responses begin at the assistant "
    "turn before it"
)
UNUSED_PROMPT_NOTE = (
    "the prompt column is none of the row's messages and was not used; the messages are the prompt"
)
RESPONSES = ("chosen", "rejected")
_ASSISTANT_TURN = "\n\nAssistant:"


def _prompt_and_responses(row: Row, where: str, tally: Tally) -> Parts:
    prompt, *responses = (read_content(row[field], field, where, tally) for field in ("prompt", *RESPONSES))
    return pair_parts(prompt, *without_repetition(prompt, responses, tally))


def implicit_chat(row: Row, where: str, tally: Tally) -> Parts:
    """The longest common beginning is the prompt, cut back until both responses begin with the assistant."""
    chosen, rejected = (read_messages(row[field], field, where, tally) for field in RESPONSES)
    shortest = min(len(chosen), len(rejected))
    parted = shared_beginning(chosen, rejected)
    end = min(parted, shortest - 1)
    while end > 0 and not chosen[end]["role"] == rejected[end]["role"] == "assistant":
        end -= 1
    if end <= 0:
        raise InputError(
            f"{where}: chosen and rejected share {parted} first messages and no prompt, but conversations "
            "that begin alike, then go on with an assistant message each, are needed. Add a prompt column or "
            "drop the row."
        )
    if end < min(parted, shortest - 1):
        tally[SHARED_TURN_NOTE] += 1
    return pair_parts(chosen[:end], chosen[end:], rejected[end:])


def _implicit_text(row: Row, where: str, tally: Tally) -> Parts:
    """The common beginning is the prompt.

    TRL 1.16's `extract_prompt` cuts at the first character that differs, or before the space in front of it.
    We do so at word boundaries only: at "bl|ue" and "bl|ack" the prompt would end in a token no text has.
    """
    chosen, rejected = (read_text(row[field], field, where) for field in RESPONSES)
    if not chosen or not rejected:
        return pair_parts("", chosen, rejected)
    shortest = min(len(chosen), len(rejected))
    # At least a character stays with each response, also where the texts are equal.
    end = min(shared_beginning(chosen, rejected), shortest - 1)
    turn = chosen.rfind(_ASSISTANT_TURN, 0, end)
    if turn >= 0:
        end = turn + len(_ASSISTANT_TURN)
    else:
        inside = chosen[end].isalnum() or rejected[end].isalnum()
        while end > 0 and inside and chosen[end - 1].isalnum():
            end -= 1
        if end > 0 and chosen[end - 1] == " ":
            end -= 1
    if end == 0:
        raise InputError(
            f"{where}: chosen ({shorten(chosen)!r}) and rejected ({shorten(rejected)!r}) begin with no "
            "common word, but both must begin with the prompt, or there be a prompt column. Add it."
        )
    tally[IMPLICIT_TEXT_NOTE] += 1
    return pair_parts(chosen[:end], chosen[end:], rejected[end:])


def _prompt_and_conversations(row: Row, where: str, tally: Tally) -> Parts:
    """UltraFeedback's rows: the prompt is text, and also the first turn of both conversations."""
    prompt = read_text(row["prompt"], "prompt", where)
    if all(
        row[f] and isinstance(row[f][0], dict) and row[f][0].get("role") == "assistant" for f in RESPONSES
    ):
        asked = [{"role": "user", "content": prompt}]
        return pair_parts(asked, *(read_messages(row[field], field, where, tally) for field in RESPONSES))
    parts = implicit_chat(row, where, tally)
    shared = [message.get("content", "").strip() for message in parts.prompt if isinstance(message, dict)]
    if prompt.strip() not in shared:
        tally[UNUSED_PROMPT_NOTE] += 1
    return parts


TRL_TEXT = layout("TRL text", _prompt_and_responses)
TRL_CHAT = layout("TRL chat", _prompt_and_responses)
ULTRAFEEDBACK = layout("UltraFeedback chat", _prompt_and_conversations)
IMPLICIT_TEXT = layout("TRL implicit text", _implicit_text)
IMPLICIT_CHAT = layout("TRL implicit chat", implicit_chat)
