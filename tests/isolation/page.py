"""The page about isolation, made from the recorded table: ``python -m tests.isolation.page``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

from tests.isolation.expected import Table, load
from tests.isolation.grounds import GROUNDS
from tests.isolation.promises import FORBIDS, Asked
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import MEANING, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "isolation.md"
#: What people wrote of it.
TEXT = Path(__file__).with_suffix(".md")

_MARKS = {
    verdict: f"**{verdict}**" if verdict in (Verdict.OCCURS, Verdict.OTHER) else str(verdict) for verdict in Verdict
}


def page(table: Table) -> str:
    """The whole page."""
    words = "".join(f"- {_MARKS[verdict]}: {meaning}.\n" for verdict, meaning in MEANING.items())
    tables = "\n".join("\n".join(_tables(title, by_level)) + "\n" for title, by_level in table.items())
    scripts = "\n".join("\n".join(_script(name)) + "\n" for name in SCRIPTS)
    promised = sum(
        len(FORBIDS[ground.asked]) for grounds in GROUNDS.values() for ground in grounds if not ground.levels
    )
    text = TEXT.read_text("utf-8").replace("{promised}", str(promised))
    return f"{text}{words}\n{tables}\n{_SCRIPTS}\n{scripts}"


_SCRIPTS = """\
## The scripts

The rows are (1, 10) and (2, 20) on every node. `from` reads in a read-only branch, `on` works in one that may write.
A transaction that waits takes its next steps when it goes on. *Held back* means that all of a transaction is done but
the last word to one branch.
"""


def _tables(title: str, by_level: Mapping[str, Mapping[str, Verdict]]) -> Iterator[str]:
    nodes = title.split(" + ")
    yield f"### {title}\n"
    if len(nodes) > 2:
        yield f"Home of every transaction is the third node, {nodes[2]}.\n"
    spans = [level for level in by_level if level in set(Asked)]
    yield from _table({level: words for level, words in by_level.items() if level not in spans})
    yield ""
    yield from _table({level: by_level[level] for level in spans})


def _table(by_level: Mapping[str, Mapping[str, Verdict]]) -> Iterator[str]:
    yield f"| | {' | '.join(by_level)} |"
    yield "|---" * (1 + len(by_level)) + "|"
    for name, script in SCRIPTS.items():
        yield f"| {script.title} | {' | '.join(_MARKS[verdicts[name]] for verdicts in by_level.values())} |"


def _script(name: str) -> Iterator[str]:
    script = SCRIPTS[name]
    yield f"### {script.title}\n"
    yield f"Harm: {script.harm}.\n"
    yield f"```text\n{dedent(script.text).strip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(load()), "utf-8")
