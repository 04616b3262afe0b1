"""The states of one process, numbered: each is run once, and remembered by what it was answered."""

from __future__ import annotations

from collections.abc import Iterable

from nodoubt.prove.databases import is_fixed
from nodoubt.prove.programs import Local, reach
from nodoubt.prove.stepping import CallId

#: A settler between two rounds, or just started: it remembers nothing that matters.
IDLE = 0


class Locals:
    """Numbers and states of processes. A number says how the process orders the participants, too: odd is the other way round.

    Who has ended, or not begun, has no order.
    """

    def __init__(self, branches: int, *, attached: bool) -> None:
        self._branches = branches
        self._attached = attached
        self._known: list[Local] = []
        self._numbers: dict[object, int] = {}
        self._answers: list[tuple[str, dict[CallId, str]]] = []
        #: number -> the same process with left and right in each other's place.
        self.mirror: list[int] = []
        self._number(("settle", "idle"), Local(()), ("settle", {}))

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, number: int) -> Local:
        return self._known[number >> 1]

    def place(self, number: int, node: int) -> int:
        """Which database a process means by a node."""
        return 3 - node if number & 1 and node and self._branches > 2 else node

    def start(self, program: str) -> int:
        """A process at its first call whose answer matters."""
        return self._reached(program, {})

    def after(self, number: int, call: CallId, answer: str) -> int:
        """Where an answer takes a process."""
        program, answers = self._answers[number >> 1]
        reached = self._reached(program, {**answers, call: answer})
        return reached if self[reached].ended else reached | number & 1

    def crashed(self, number: int) -> int:
        """What is left of a process: a settler is started again, an owner is not; what its caller was told was told."""
        program, told = self._answers[number >> 1][0], self[number].told
        if program != "own":
            return IDLE
        return self._number((program, told), Local((), told), (program, {}))

    def starts(self) -> Iterable[int]:
        """What an idle settler may do next."""
        orders = (0, 1) if self._branches > 2 else (0,)
        return [self.start(program) | order for program in ("settle", "purge") for order in orders]

    def _reached(self, program: str, answers: dict[CallId, str]) -> int:
        key = (program, frozenset(answers.items()))
        if key in self._numbers:
            return self._numbers[key]
        local = reach(program, self._branches, answers, attached=self._attached)
        fixed = {i: "ok" if c.verb == "begin" else "no" for i, c in local.waiting if is_fixed(c.node, c.verb)}
        if fixed:
            number = self._reached(program, answers | fixed)
        elif not local.ended:
            number = self._number(key, local, (program, answers))
        elif program == "own":
            number = self._number((program, local.told, local.alarm, local.phase), local, (program, {}))
        else:
            number = self._number((program, local.alarm), local, (program, {})) if local.alarm else IDLE
        self._numbers[key] = number
        return number

    def _number(self, key: object, local: Local, answers: tuple[str, dict[CallId, str]]) -> int:
        if key not in self._numbers:
            number = self._numbers[key] = len(self._known) * 2
            self._known.append(local)
            self.mirror += (number, number + 1) if local.ended else (number + 1, number)
            self._answers.append(answers)
        return self._numbers[key]
