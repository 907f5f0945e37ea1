"""The documents and their fenced blocks, for the tests of what they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("packages/*/README.md")])
CONSOLE = "console"
"""The language of blocks with commands for other machines, or for a network: `$ COMMAND`. They are not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what follows the fence; empty for commands that tests can run.
        text: its lines, unindented.
        file: the file that it is, if the text before it ends in that name and a colon.
        follows: whether nothing is between it and the block before it.
    """

    language: str
    text: str
    file: str
    follows: bool

    @property
    def commands(self) -> list[str]:
        """The commands of a block, each in one line, without prompts and comments."""
        prompt = "$ " if self.language == CONSOLE else ""
        joined = re.sub(r" *\\\n *", " ", self.text)
        lines = [line for line in joined.splitlines() if line.startswith(prompt)]
        return [line.removeprefix(prompt).split(" #")[0].strip() for line in lines if line.strip()]


def read_blocks(text: str) -> list[Block]:
    """All fenced blocks of a document, MyST's directives among them."""
    found, end = [], -1
    for match in re.finditer(r"^( *)```([^`\n]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        indent, language, body = match.groups()
        title = re.search(r"`([\w./-]+)`:\n\n\Z", text[: match.start()])
        found.append(
            Block(
                language=language,
                text="\n".join(line.removeprefix(indent) for line in body.splitlines()),
                file=title[1] if title else "",
                follows=not text[end : match.start()].strip() if end >= 0 else False,
            )
        )
        end = match.end()
    return found


def blocks(text: str, language: str) -> list[str]:
    """The texts of the blocks of a language."""
    return [block.text for block in read_blocks(text) if block.language == language]


def without_blocks(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def listed_under(caption: str) -> list[Path]:
    """The pages of one part of the site, as docs/index.md lists them."""
    trees = blocks((DOCS / "index.md").read_text("utf-8"), "{toctree}")
    (tree,) = (tree for tree in trees if f":caption: {caption}\n" in tree)
    return [DOCS / f"{name}.md" for name in re.findall(r"^(?:.*<)?([\w/-]+)>?$", tree, re.MULTILINE)]
