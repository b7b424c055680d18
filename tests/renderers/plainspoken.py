"""A family of another distribution; `test_entry_points.py` installs it."""

from renderers import Family, MessageText, Pieces, View


class Plainspoken(Family):
    """Every message as its role, a line break, and its text."""

    name = "plainspoken"
    stop = "<|im_end|>"

    @property
    def has_extension_property(self) -> bool:
        return True

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        return MessageText((message["role"].upper() + "\n",), ("", str(message.get("content") or ""), self.stop))

    def generation_prompt(self, view: View) -> Pieces:
        return ("ASSISTANT\n",)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))
