"""Whether the cases that make one sequence per conversation made the same one: not timed, on a few conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inputs import main_input
from peers.cases import Case
from rounds import Inputs, run_case

NUM_CONVERSATIONS = 100
REFERENCE = "transformers"
_OTHER_WORK = ("ours auto", "ours split", "ours large", "ours large x2", "tml", "floor")


def differing(cases: Sequence[Case], folder: Path, scratch: Path) -> dict[str, int]:
    """By case, how many of `NUM_CONVERSATIONS` differ from transformers'; empty when that did not run.

    Compared are the ids up to the last trained one, and which of them are trained.
    """
    comparable = {case.name: case for case in cases if case.name not in _OTHER_WORK}
    if REFERENCE not in comparable:
        return {}
    place = scratch / "agreement"
    place.mkdir(exist_ok=True)
    path = main_input(place, NUM_CONVERSATIONS)
    inputs = Inputs(folder, path, path)
    digests = {name: run_case(case, inputs, ["--digest"])["digests"] for name, case in comparable.items()}
    reference = digests.pop(REFERENCE)
    return {name: _unlike(found, reference) for name, found in digests.items()}


def sentence(differences: Mapping[str, int]) -> str:
    """The outcome in words."""
    if not differences:
        return ""
    same = [name for name, number in differences.items() if not number]
    other = [f"{name} ({number})" for name, number in differences.items() if number]
    words = f"Of {NUM_CONVERSATIONS} conversations, ids and trained tokens are those of {REFERENCE} in all for: "
    words += f"{', '.join(same) or 'none'}."
    if other:
        words += (
            f" They differ for: {', '.join(other)}; a peer's family renderer writes its own family's text, whatever "
        )
        words += "the folder's template says."
    return words


def _unlike(found: Sequence[str], reference: Sequence[str]) -> int:
    if len(found) != len(reference):
        return max(len(found), len(reference))
    return sum(a != b for a, b in zip(found, reference, strict=True))
