"""Who takes part: one `Case` per line of the tables."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_FOUR = ("cookbook", "transformers", "transformers batch", "trl", "prime")
"""The four libraries that the main bar names; transformers in both ways of calling it."""


@dataclass(frozen=True)
class Case:
    """One program over one input.

    Attributes:
        name: as printed.
        environment: name of the virtual environment; empty for the project's own.
        script: adapter beside this file.
        mode: the adapter's own mode.
        workers: processes; also how many cores it may use.
        input: `main`, or `large` where start-up would drown the work.
        note: what it does, for the table.
    """

    name: str
    environment: str
    script: str
    mode: str = ""
    workers: int = 1
    input: str = "main"
    note: str = ""


CASES: tuple[Case, ...] = (
    Case("ours single", "", "ours.py", "single", note="file to shards; one sequence per conversation, as the peers"),
    Case("ours auto", "", "ours.py", "auto", note="file to shards; what the command does by default"),
    Case("ours split", "", "ours.py", "split", note="file to shards; one example per assistant turn"),
    Case("ours tokenizers", "", "ours.py", "single-tokenizers", note="as single, without fastokens"),
    Case("ours template", "", "ours.py", "single-template", note="as single, through the model's own chat template"),
    Case("cookbook", "cookbook", "cookbook.py", note="`conversation_to_datum`, qwen3, all assistant messages"),
    Case("transformers", "transformers", "hf_template.py", note="`apply_chat_template` with mask, one call per row"),
    Case("transformers batch", "transformers", "hf_template.py", "batch", note="the same, 256 rows a call"),
    Case("trl", "trl", "trl_prepare.py", note="`SFTTrainer` preparation to its Arrow dataset"),
    Case("prime", "prime", "prime.py", note="`build_training_sample`, qwen3"),
    Case("tml", "tml", "tml.py", note="`render_for_sft`: one example per assistant turn, its own vocabulary"),
    Case("floor", "", "floor.py", note="orjson, fastokens, Arrow write; nothing else"),
    Case("ours large", "", "ours.py", "single", input="large", note="one process on the large input"),
    Case("ours large x2", "", "ours.py", "single", workers=2, input="large", note="two workers on the large input"),
)

LATENCY: tuple[Case, ...] = (
    Case("ours", "", "ours.py", "single", note="`build_generation_prompt`"),
    Case("cookbook", "cookbook", "cookbook.py", note="`build_generation_prompt`"),
    Case("prime", "prime", "prime.py", note="`render_ids`"),
    Case("tml", "tml", "tml.py", note="`render_for_completion`, its own vocabulary"),
    Case("transformers", "transformers", "hf_template.py", note="`apply_chat_template`"),
)
