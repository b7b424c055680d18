"""One module per chat-template family; each is found by being here and lists its renderers in `RENDERERS`."""
