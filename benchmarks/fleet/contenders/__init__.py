"""Programs that handle a prepared backlog when they are told to; each runs in its contender's environment."""
