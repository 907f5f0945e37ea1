"""Class names in lines of text: a plain list, or lines with class indices, WordNet IDs, columns or quotes.

What cannot be read with certainty is refused: a number or a delimiter that becomes part of every name is a wrong answer
without a word. A JSON list is the way to give such names.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from timmx.base import brief
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LONGEST = 4096
"""In characters; the longest name and description of ImageNet-22k has a few hundred."""

AS_LIST = 'write a JSON list of the names in the order of the classes, which is read as it is: ["cat", ...]'


def names_in_lines(
    lines: Sequence[str], where: str, note: Callable[[str], None], table: bool
) -> list[str] | dict[str, str]:
    """The names in lines, in order, or a map of class index to name.

    Args:
        lines: without blank ones.
        where: their source, for messages.
        note: called with what the lines were taken for, if they are not a plain list.
        table: the suffix of the file says that it has columns.

    Raises:
        ConfigurationError: the lines look numbered or structured, and it is uncertain how.
    """
    lines = [line.strip() for line in lines]
    if not lines:
        return []
    longest = max(map(len, lines))
    if longest > _LONGEST:
        raise _uncertain(where, f"it has a line of {longest:,} characters")
    _check_not_a_document(lines, where)
    comments = [line for line in lines if line.startswith("# ")]
    if len(comments) < len(lines):
        lines = [line for line in lines if not line.startswith("# ")]
    names = _wordnet(lines, where, note)
    if names is None:
        names = _columns(lines, where, note, table)
    if names is None:
        names = _numbered(lines, where, note)
    if names is None:
        names = _bare(lines, where, note)
        _check_no_counter(names, where)
    _check_marks(list(names.values()) if isinstance(names, dict) else names, where)
    if len(comments) < len(lines) and comments:
        note("lines without the comments, which begin with #")
    return names


# Documents


_KEY = re.compile(r"(names|labels|classes|nc|path|train|val|id2label|label2id|class_to_idx)\s*:\s*\S", re.I)
_OPENS = re.compile(
    r"(^|\w\s*)[\[{(]$|^[\]})],?;?$|^<(!doctype|html|\?xml)|^<(?P<tag>\w+)[^>]*>.*</(?P=tag)>$"
    r"|^\w+\s*=\s*[\[{(\"']|^---$|^\w+\s*\{.*:.*\}$",
    re.I,
)


def _check_not_a_document(lines: Sequence[str], where: str) -> None:
    """Refuse YAML with other keys, protocol buffers, HTML and code."""
    for line in lines[:1000]:
        if _OPENS.search(line) or (len(lines) > 1 and _KEY.match(line) and not _NUMBER_LAST.match(line)):
            raise _uncertain(where, f"the line {brief(line)} looks like part of a document, not like a name")


# WordNet IDs


_WORDNET = re.compile(r"n\d{8}$")


def is_wordnet(text: str) -> bool:
    """Whether a text is a WordNet ID, such as n01440764."""
    return _WORDNET.match(text) is not None


def _wordnet(
    lines: Sequence[str], where: str, note: Callable[[str], None]
) -> list[str] | dict[str, str] | None:
    """The names in lines of WordNet ID and name, or of WordNet ID, class index and, perhaps, name."""
    parts = [re.split(r"\s*[,;|\t]\s*|\s+", line, maxsplit=1) for line in lines]
    if not all(len(part) == 2 and is_wordnet(part[0]) for part in parts):
        return None
    rest = [part[1] for part in parts]
    if all(map(_is_number, rest)):
        return _by_index(rest, [part[0] for part in parts], where, note, "WordNet ID and class index")
    numbered = [_NUMBERED.match(text) for text in rest]
    if all(numbered):
        found = [match for match in numbered if match]
        return _by_index(
            [_number(match) for match in found],
            [match["name"] for match in found],
            where,
            note,
            "WordNet ID, class index and name",
        )
    if sum(match is not None for match in numbered) > len(lines) / 2:
        raise _uncertain(where, "most of its lines have a WordNet ID and a number, but not all")
    note("lines of WordNet ID and name")
    return rest


# Columns


_INDEX_HEADERS = {
    *("", "#", "i", "id", "idx", "index", "no", "nr", "num", "number", "key", "class", "label", "target"),
    *(
        "class_id",
        "class_idx",
        "class_index",
        "class id",
        "class index",
        "label_id",
        "label_idx",
        "category_id",
    ),
    *("classid", "labelid", "class_no", "class_number", "label_index", "id_class"),
}
_NAME_HEADERS = {
    *("name", "names", "class", "classes", "label", "labels", "category", "categories", "class_name"),
    *("class name", "label_name", "category_name", "classname", "labelname", "class_label", "title"),
}


def _columns(
    lines: Sequence[str], where: str, note: Callable[[str], None], table: bool
) -> list[str] | dict[str, str] | None:
    """The names in a table whose rows have an equal number of cells; None if the lines are not one."""
    rows, delimiter = _rows(lines)
    if not rows:
        if table and len(lines) > 1 and lines[0].strip("\"'").lower() in _NAME_HEADERS:
            note("a column with a header")
            return _bare(lines[1:], where, note) if '"' in "".join(lines[1:]) else list(lines[1:])
        return None
    columns = list(zip(*rows, strict=True))
    body = [column[1:] for column in columns]
    words = [cell.lower() for cell in rows[0]]
    header = (
        len(rows) > 1
        and not any(cell.isdigit() for cell in rows[0])
        and (
            any(all(map(_is_number, column)) for column in body)
            or all(word in _INDEX_HEADERS | _NAME_HEADERS for word in words)
        )
    )
    if not header:
        body, words = columns, [""] * len(columns)
    indices = [number for number, column in enumerate(body) if all(map(_is_number, column))]
    names = [
        number
        for number, column in enumerate(body)
        if number not in indices and not all(map(is_wordnet, column))
    ]
    if header and len(names) > 1:
        names = [number for number in names if words[number] in _NAME_HEADERS] or names
    same = indices and all(body[number] == body[indices[0]] for number in indices)
    if same and len(names) == 1 and (not header or words[indices[-1]] in _INDEX_HEADERS):
        kind = "class index and name" + (" with a header" if header else "")
        return _by_index(list(body[indices[0]]), list(body[names[0]]), where, note, kind)
    if not indices and len(names) == 1 and len(columns) == 2 and not header:
        note("rows of WordNet ID and name")
        return list(body[names[0]])
    if not indices and not table and delimiter == "," and not _is_tight(lines):
        return None  # names such as "tench, Tinca tinca"
    what = {"\t": "a tab", ";": "a semicolon", "|": "a vertical line", ",": "a comma"}[delimiter]
    if len(rows) == 1 and not indices:
        raise _uncertain(where, f"it has one line, with {len(columns)} values separated by {what}")
    raise _uncertain(
        where,
        f"its lines have {len(columns)} columns separated by {what}, and which are the class index and the name is "
        "uncertain",
    )


def _rows(lines: Sequence[str]) -> tuple[list[list[str]], str]:
    """The cells of a table, without spaces around them, and its delimiter; no rows if the lines are not one."""
    for delimiter in ("\t", ";", "|", ","):
        if not all(delimiter in line for line in lines):
            continue
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
        except csv.Error:
            continue
        if len(rows) == len(lines) and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            cells = [[cell.strip() for cell in row] for row in rows]
            if all(any(row) for row in cells):
                return cells, delimiter
    return [], ""


def _is_tight(lines: Sequence[str]) -> bool:
    """Whether a comma without a space after it is in every line, as in tables and not in names."""
    return all(re.search(r",(?=\S)", line) for line in lines)


# Numbered lines


_NUMBERED = re.compile(
    r"(?:[-*•]\s+)?(?:class\s+)?"
    r"(?:[\[(<](?P<inside>\d{1,9})[\])>]|#?(?P<number>\d{1,9}))"
    r"(?P<mark>\s*(?:->|=>|[,;:|=\t)]|\.(?!\d))\s*|\s+[-\u2013\u2014]\s+|\s+)"
    r"(?P<name>\S.*)$",
    re.I,
)
_CLOSED = re.compile(r"(?:[-*•]\s+)?[\[(<](?P<inside>\d{1,9})[\])>](?P<name>[^\s\d].*)$")
_TIGHT = re.compile(r"(?P<number>\d{1,9})[-_/](?P<name>\S.*)$")
_NUMBER_LAST = re.compile(
    r"(?P<name>\S.*?)(?P<mark>\s*(?:->|=>|[,;:|=\t])\s*|\s+[-\u2013\u2014]\s+|\s+)"
    r"(?:[\[(<](?P<inside>\d{1,9})[\])>]|#?(?P<number>\d{1,9})),?$"
)
_YEARS = range(1900, 2100)
_HEADER = re.compile(
    r"(" + "|".join(sorted(filter(str.isalpha, _INDEX_HEADERS | _NAME_HEADERS))) + r"|class_name|id2label)"
    r"(\s*[:,;|\t]\s*|\s+(?=\S)|$)",
    re.I,
)


def _number(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return str(groups.get("inside") or groups.get("number"))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,9}", text) is not None


def _numbered(
    lines: Sequence[str], where: str, note: Callable[[str], None]
) -> list[str] | dict[str, str] | None:
    """The names in lines with a class index before or after; None if the lines are not numbered.

    "7-Eleven" and "3 musketeers" are names unless all or most of the other lines begin with numbers too; years (from
    1900 on) belong to names.

    Raises:
        ConfigurationError: all or most lines have numbers, which are not 0 to n-1.
    """
    for patterns, place in (((_NUMBERED, _CLOSED), "begin"), ((_TIGHT,), "begin"), ((_NUMBER_LAST,), "end")):
        matches = [next((m for p in patterns if (m := p.match(line))), None) for line in lines]
        header = matches[0] is None and len(lines) > 1 and _HEADER.match(lines[0]) is not None
        found = [match for match in matches[header:] if match is not None]
        count = len(lines) - header
        numbers = [int(_number(match)) for match in found]
        spaced = all(not (match.groupdict().get("mark") or " ").strip(" ") for match in found)
        tight = patterns == (_TIGHT,)
        if not found or (spaced and not tight and all(number in _YEARS for number in numbers)):
            continue
        small = max(numbers) <= 2 * count
        distinct = len(set(numbers)) == len(numbers)
        if len(found) == count and not tight:
            names = [match["name"] for match in found]
            if place == "end" and count > 1 and len(set(names)) == 1:
                continue  # "digit 0", "digit 1"
            if sorted(numbers) == list(range(count)):
                names = _without_quotes(_without_wordnet(names))
                if all(re.search(r"[\t;|]|,(?=\S)", name) for name in names):
                    raise _uncertain(where, "its lines have a number and several columns")
                kind = "class index and name" + (" with a header" if header else "")
                return _by_index([str(number) for number in numbers], names, where, note, kind)
            if count == 1 and not small:
                continue
            if place == "end" and spaced and not small and not distinct:
                continue  # "Audi A4 40", "Audi A6 40"
            raise _numbers(where, numbers)
        if len(found) > 1 and len(found) > count / 2:
            if (tight or (place == "end" and spaced)) and not (small and distinct):
                continue  # "12-inch record", "Boeing 747"
            raise _uncertain(
                where,
                f"{len(found):,} of its {len(lines):,} lines {place} with a number, so it is uncertain whether the "
                "numbers are class indices",
            )
    return None


def _without_wordnet(names: list[str]) -> list[str]:
    parts = [name.split(maxsplit=1) for name in names]
    return (
        [part[1] for part in parts]
        if all(len(part) == 2 and is_wordnet(part[0]) for part in parts)
        else names
    )


def _by_index(
    numbers: Sequence[str], names: Sequence[str], where: str, note: Callable[[str], None], kind: str
) -> dict[str, str]:
    """The map of class index to name.

    Raises:
        ConfigurationError: the numbers are not 0 to n-1, or they seem to be part of the names.
    """
    indices = [int(number) for number in numbers]
    if sorted(indices) != list(range(len(indices))):
        raise _numbers(where, indices)
    if len(names) > 1 and 3 * len(set(names)) <= 2 * len(names):  # "0 stars", "1 star", "2 stars"
        name = Counter(names).most_common(1)[0][0]
        raise _uncertain(where, f"without their numbers many names are equal, such as {brief(name)}")
    note(f"lines of {kind}")
    return {str(index): name for index, name in zip(indices, names, strict=True)}


# Lists


_QUOTED = re.compile(r"(?P<quote>['\"])(?P<name>(?:(?!(?P=quote)).)*)(?P=quote)\s*,?$")


def _without_quotes(names: list[str]) -> list[str]:
    """Names without the quotes that all have."""
    quoted = [_QUOTED.match(name) for name in names]
    return [match["name"] for match in quoted if match] if all(quoted) else names


def _bare(lines: Sequence[str], where: str, note: Callable[[str], None]) -> list[str]:
    """The names in lines without numbers and columns: with the marks of a list, in quotes, or as they are."""
    names = list(lines)
    if len(names) > 1 and re.fullmatch(r"\w+:", names[0]) and _HEADER.match(names[0]):
        names = names[1:]
        note("a list with a header")
    if names[0][:2] in ("- ", "* ", "• ") and all(name[:2] == names[0][:2] for name in names):
        note("a list of items")
        names = [name[2:].strip() for name in names]
    unquoted = _without_quotes(names)
    if unquoted != names:
        note("names in quotes")
        return unquoted
    ends = names[0][-1]
    if len(names) > 1 and ends in ",;" and all(name.endswith(ends) for name in names[:-1]):
        raise _uncertain(where, f"its lines end with {ends!r}")
    if len(names) > 2 and names[0].lower() in _NAME_HEADERS and not lines[0].endswith(":"):
        raise _uncertain(where, f"its first line, {brief(names[0])}, could be a header")
    return names


_COUNTER = re.compile(r"0x[0-9a-f]+|-?\d{1,9}", re.I)
_FIRST_COUNTER = re.compile(r"\W*(\d{1,9})(?!\w)")
_MARK = re.compile(r"[:;,|=~>]\s*\w")
_LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
_ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx".split()
_OTHER_NUMBER = re.compile(r"\W?([a-z]|[ivx]{1,5})[).]\s*\S", re.I)


def _check_no_counter(names: Sequence[str], where: str) -> None:
    """Refuse names that count the lines in a form that no other rule knows, such as `class_0 cat` or `0~cat`.

    "digit 0" and "digit 1" are names.
    """
    if len(names) < 2:
        return
    plain = [unicodedata.normalize("NFKC", name) for name in names]  # other digits and signs
    found = [_COUNTER.search(name) for name in plain]
    if all(found):
        numbers = [int(match[0], 16 if match[0][:2].lower() == "0x" else 10) for match in found if match]
        rests = {name.replace(match[0], "", 1) for name, match in zip(plain, found, strict=True) if match}
        if len(rests) > 1 and numbers in [list(range(start, start + len(names))) for start in (-1, 0, 1)]:
            raise _uncertain(
                where,
                f"its lines are numbered from {numbers[0]}, in a form that is not known: {brief(names[0])}",
            )
    first = [(index, match) for index, name in enumerate(plain) if (match := _FIRST_COUNTER.match(name))]
    rests = {plain[index][match.end() :] for index, match in first}
    if 1 < len(first) < len(names) and len(rests) > 1:
        for start in (0, 1):
            if all(int(match[1]) == index + start for index, match in first):
                index = first[0][0]
                raise _uncertain(where, f"some of its lines begin with their number: {brief(names[index])}")
    marks = [match[1].lower() for name in plain if (match := _OTHER_NUMBER.match(name))]
    if marks in (_LETTERS[: len(names)], _ROMAN[: len(names)]):
        raise _uncertain(where, f"its lines are numbered with letters: {brief(names[0])}")


def _check_marks(names: Sequence[str], where: str) -> None:
    """Refuse names that all begin with the same mark, or hold WordNet IDs."""
    if len(names) > 1 and _MARK.match(names[0]) and len({name[:1] for name in names}) == 1:
        raise _uncertain(where, f"all names would begin with {names[0][0]!r}: {brief(names[0])}")
    if len(names) > 1 and all(re.search(r"\bn\d{8}\b", name) and not is_wordnet(name) for name in names):
        raise _uncertain(where, f"all names would have a WordNet ID: {brief(names[0])}")


# Errors


def _numbers(where: str, numbers: Sequence[int]) -> ConfigurationError:
    """The error for numbers in all lines that are not 0 to n-1."""
    count = len(numbers)
    if sorted(numbers) == list(range(1, count + 1)):
        what = f"its lines are numbered from 1 to {count}, and class indices begin at 0"
    else:
        number, times = Counter(numbers).most_common(1)[0]
        why = f"{number} is given {times:,} times" if times > 1 else f"they are {_some(numbers)}"
        what = f"all lines have a number, and these are not the class indices 0 to {count - 1}: {why}"
    return ConfigurationError(
        f"{where}: {what}",
        hint="write the names only, one per line, in the order of the classes; if the numbers are part of the names, "
        "write a JSON list",
    )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "")


def _uncertain(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {what}", hint=AS_LIST)
