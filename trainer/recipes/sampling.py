"""What the model says to a few prompts while it learns: shown, kept in `samples.jsonl`, sent to the trackers."""

from __future__ import annotations

from typing import Any

from renderers import Renderer, Tokenizer, get_renderer

from .config import SampleConfig
from .run_folder import RunFolder
from .speaking import Speaker, SpeakingOptions
from .step_progress import StepProgress
from .trackers import MultiLogger
from .wire import Wire

__all__ = ["PromptSampler"]


class PromptSampler:
    """Answers the configured prompts with the adapter as it is.

    Args:
        config: prompts and how to sample.
        wire: values for the client.
        tokenizer: of the model; its chat template decides the renderer.
        folder: of the run.
        seed: of the samples, the same at every step.
    """

    def __init__(self, config: SampleConfig, wire: Wire, tokenizer: Tokenizer, folder: RunFolder, *, seed: int) -> None:
        self._config = config
        self._wire = wire
        self._folder = folder
        self._options = SpeakingOptions(max_tokens=config.max_tokens, temperature=config.temperature, seed=seed)
        # Made at once: a model without a chat template is refused before the first step.
        self._renderer: Renderer | None = get_renderer("auto", tokenizer) if config.prompts else None

    def sample(self, client: Any, step: int, logger: MultiLogger, progress: StepProgress) -> None:
        """One answer per prompt, from a snapshot that later steps do not touch."""
        if self._renderer is None:
            return
        speaker = Speaker(client.save_weights_and_get_sampling_client(), self._renderer, self._wire)
        for prompt in self._config.prompts:
            answer = speaker.answer([{"role": "user", "content": prompt}], self._options)
            text = self._renderer.tokenizer.decode(answer.tokens)
            self._folder.log_sample(
                {
                    "step": step,
                    "prompt": prompt,
                    "text": text,
                    "message": answer.message,
                    "termination": str(answer.termination),
                }
            )
            logger.log_long_text("sample", f"{prompt}\n{text}", step)
            progress.say(f"step {step}: {prompt!r} -> {text!r}")
