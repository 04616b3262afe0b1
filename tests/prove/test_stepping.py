"""A stepped process: stopped between calls, brought back by its answers, whatever their order."""

from __future__ import annotations

from nodoubt.prove.stepping import Ask, Call, SteppedWorld, run

WORLD = SteppedWorld()


async def ask(node: int, verb: str) -> str:
    return await Ask(Call(node, verb))


async def pair(node: int) -> str:
    return await ask(node, "first") + await ask(node, "second")


async def program(results: list[str]) -> None:
    results.append(await ask(0, "begin"))
    results.extend(await WORLD.together([pair(1), pair(2)]))
    assert await WORLD.together([]) == []
    results.append(await ask(0, "end"))


def test_a_program_runs_as_far_as_its_answers_reach() -> None:
    results: list[str] = []
    reached = run(program(results), {})
    ((begin, call),) = reached.waiting.items()
    assert (call, reached.ended) == (Call(0, "begin"), False)
    reached = run(program(results), {begin: "x"})
    assert [call.node for call in reached.waiting.values()] == [1, 2]
    assert results == ["x"]


def test_steps_that_run_at_once_are_answered_in_any_order() -> None:
    answers: dict[object, str] = {}
    for node in (0, 2, 1, 2, 1, 0):
        waiting = run(program([]), answers).waiting  # type: ignore[arg-type]
        (identity,) = (identity for identity, call in waiting.items() if call.node == node)
        answers[identity] = f"{node}"
    results: list[str] = []
    reached = run(program(results), answers)  # type: ignore[arg-type]
    assert reached.ended
    assert not reached.waiting
    assert results == ["0", "11", "22", "0"]
    assert len(reached.heard) == 6


async def broken() -> None:
    await WORLD.together([ask(1, "a"), WORLD.sleep(1.0)])


def test_a_program_that_breaks_says_so() -> None:
    reached = run(broken(), {})
    assert "waits for databases alone" in str(reached.error)
    assert not reached.ended
