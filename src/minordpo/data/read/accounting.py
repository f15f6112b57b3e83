"""What a row holds beside what is read: refused where it changes the meaning, else counted and told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from minordpo.errors import InputError


class RowProblem(InputError):
    """Why one row cannot be used; `minordpo.data.checks` collects these over a whole source."""

    def __init__(self, kind: str, message: str, *, tokens: int = 0, remedy: str = "Fix the row or drop it"):
        super().__init__(message)
        self.kind = kind  # for counting: "empty_response", "identical", "too_long", …
        self.tokens = tokens  # of the prompt with the longer response, where the length is the problem
        self.remedy = remedy

    def at(self, where: str) -> InputError:
        """The error for a row at `where` that nobody collects."""
        return InputError(f"{where}: {self}. {self.remedy}.")


class Unread(NamedTuple):
    """Something that rows give and nothing reads; a key of a tally, which counts the rows where it is not empty."""

    what: str  # in words: "column score", "message key weight"
    advice: str = ""  # why it is not read, or what would read it


class Tally(Counter[str | Unread]):
    """Notes by their words, and what is unread, each with the number of rows."""


# What would be lost with these is what the row is about. `image_path`, `rejected_images` and the like are meant too.
_MEDIA = re.compile(
    r"(?:.*_)?(?:image|img|picture|photo|video|audio|speech)s?(?:_(?:path|file|url|bytes|data|base64)s?)?"
    r"|pixel_values",
    re.I,
)
# As models of images and sound spell it: <image>, <|image_1|>, <start_of_image>, <|vision_start|>. A tag that is
# closed, or stands in quotes, is what the text is about; alone it stands for a file.
_PLACE = re.compile(
    r"(?<![`'\"])<(\|?)(?:(?:start_of_)?(image|video|audio|speech)(?:_?(?:pad|token|placeholder|\d+))?|vision_start)\1>"
    r"(?![`'\"])"
)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, blank text, an empty list or object, or a list of such."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, Mapping):
        return all(is_empty(each) for each in value.values())
    return isinstance(value, list | tuple) and all(is_empty(each) for each in value)


def is_media(column: str) -> bool:
    """Whether a column of that name holds images, videos or sound."""
    return _MEDIA.fullmatch(column) is not None


def refuse_media(column: str, found: str) -> RowProblem:
    """The problem of a row with something in a column of media."""
    return RowProblem("media", f"{column} is {found}, but only text is trained on", remedy=_WITHOUT_MEDIA)


def refuse_places(text: str, field: str) -> None:
    """Refuse a text, called `field`, in which <image>, <video> or <audio> stands for a file.

    Raises:
        RowProblem: it has such a tag, which is neither closed in it nor in quotes.
    """
    for place in _PLACE.finditer(text):
        if f"</{place[2]}>" not in text:
            found = f"{field} has {place[0]}, which stands for a file"
            raise RowProblem("media", f"{found}, but only text is trained on", remedy=_WITHOUT_MEDIA)


_WITHOUT_MEDIA = "Drop such rows by data.invalid=drop, or take it out of the row"


def count_others(tally: Tally, of: str, given: Mapping[str, Any], read: Iterable[str]) -> None:
    """Count the keys of an object, one of `of`, that are not read."""
    known = set(read)
    for name, value in given.items():
        if name in known or is_empty(value):
            continue
        if is_media(name):
            raise refuse_media(f"{name} of {of}", "given")
        tally[Unread(f"{name} of {of}")] += 1


def once(tally: Tally, found: Tally) -> None:
    """Add what was found in one row, each unread thing once, however often the row has it."""
    for key, count in found.items():
        tally[key] += 1 if isinstance(key, Unread) else count


def told(unread: Mapping[Unread, int], rows: int) -> Iterator[str]:
    """What is not read, in words: one line of all that needs no advice, and one for each thing that has some."""
    plain = [f"{each.what} ({count:,})" for each, count in unread.items() if not each.advice]
    if plain:
        yield f"not read, and in how many of {rows:,} rows it is not empty: {', '.join(plain)}"
    for each, count in unread.items():
        if each.advice:
            yield f"not read: {each.what}, not empty in {count:,} of {rows:,} rows; {each.advice}"


def unread_of(tally: Tally) -> dict[Unread, int]:
    """What a tally has that is unread, the most frequent first."""
    found = [(each, count) for each, count in tally.items() if isinstance(each, Unread)]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))
