"""What counted events and drop reasons mean, in a sentence."""

from __future__ import annotations

__all__ = ["EXPLANATIONS"]

EXPLANATIONS: dict[str, str] = {
    # events
    "blank_lines": "Empty lines between rows.",
    "control_token_in_content": "Conversations whose content spells a control token of the model; what became of it is "
    "the option control_tokens.",
    "conversations_split": "Conversations whose trained turns could not share one sequence: the template shows an "
    "earlier turn differently later.",
    "cut_keep_end": "Examples that lost their start to max_length.",
    "cut_keep_start": "Examples that lost their end to max_length.",
    "cut_stop_token": "Of these, examples in which a trained turn lost its stop token.",
    "cut_turn_start": "Of these, examples in which a trained turn lost its start.",
    "generation_marks_differ": "Turns whose trained span is not the one that the template's own marks give.",
    "header_merge": "Turns that start with white space which whole-text encoding would join with their header.",
    "message_not_shown": "Messages of which the template shows nothing.",
    "oldest_turns_dropped": "Examples that lost their oldest exchanges to max_length.",
    "split_by_length": "Examples that became several for max_length.",
    "tool_calls_not_shown": "Tool calls of which the template shows nothing.",
    "turn_without_stop_token": "Turns that the template does not end with a stop token.",
    # drops
    "control_token": "Text that spells a control token which cannot be kept as text.",
    "duplicate": "The same conversation came before.",
    "message_too_long": "A message that does not fit max_length even alone.",
    "no_mean": "Weights that sum to 0 or less have no mean to divide by.",
    "no_trained_tokens": "Nothing to train on: every weight is 0.",
    "pair_broken": "The other half of a preference pair gave no example.",
    "prompt_disagrees": "The template writes the turn unlike the prompt that sampling would show.",
    "span_not_found": "The template does not show the message as a stretch of its own.",
    "template_refused": "The chat template itself refuses it.",
    "too_long": "Longer than max_length.",
    "turns_disagree": "Trained turns that cannot share one sequence, dropped as turns=drop asks.",
}
"""By reason code; codes that say all themselves have none."""
