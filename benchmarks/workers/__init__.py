"""Programs that emit events when they are told to, one per contender; each runs in its contender's environment."""
